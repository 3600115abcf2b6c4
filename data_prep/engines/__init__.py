"""Engines map shard tasks over workers; whichever one runs a task, its bytes are the same."""
