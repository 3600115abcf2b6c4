"""Images that tests of pixels share: shapes with every rest that vector code has, and statistics to normalise by."""

from __future__ import annotations

import numpy as np
import torch

SHAPES = [(8, 8, 3), (7, 5, 1), (28, 28, 1), (32, 32, 3), (1, 1, 3), (5, 33, 4), (9, 2, 2), (3, 100, 3)]
MEAN, STD = torch.tensor([120.3, 115.1, 101.7, 90.0]), torch.tensor([60.1, 59.2, 61.3, 0.7])


def random_images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(shape).integers(0, 256, shape, dtype=np.uint8))
