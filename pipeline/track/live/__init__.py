"""The live page: a small web server on this machine that shows run folders while they are written."""
