"""Watching a run: one call logs a dict of floats; metrics.jsonl is the record, trackers are views of it."""
