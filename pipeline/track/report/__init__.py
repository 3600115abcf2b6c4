"""Runs as pages: a report of one, a comparison of several, each one HTML file that loads nothing."""
