"""Preparation: image collections in, streaming tar shards out. Never imports torch."""
