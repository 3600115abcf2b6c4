"""The shard format: plain tars that are also arrays. Standard library and numpy only; see docs/FORMAT.md."""
