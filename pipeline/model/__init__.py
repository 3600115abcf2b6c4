"""Models: torch modules from flattened pixels to logits. No Lightning, no config tree."""
