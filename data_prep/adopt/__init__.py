"""Shards that others made: adopted where they lie, and indexes of shards for other readers."""
