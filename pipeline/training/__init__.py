"""Training: objective, schedule, metrics, checkpoints, and the Lightning module that joins them."""
