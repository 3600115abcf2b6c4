"""What studies measure of trained models and finished runs: gradients, curvature, closed-form solutions, fits."""
