"""From manifest to batch: the order (pure), the gather, the loader."""
