"""A batch in parts is the batch, on several ranks as on one, sharded or not, the last part short.

That one rank's micro-batches are plain gradient descent over the batch is shown in test_runs.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.shards.manifest import DataSet
from runs import SMALL, metric_rows, run_ranks, train_here, weights_of

# 100 samples in batches of 12: 8 steps an epoch.
OPTIONS = [
    *(*SMALL, "model.hidden=[16,16]", "trainer.max_epochs=2", "trainer.log_every_steps=1"),
    *("optimizer.rate=0.05", "trainer.clip_norm=1"),
]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize(("batch", "num_ranks", "micro"), [("12", 2, 4), ("12", 2, 8), ("full", 3, 42)])
def test_micro_batches_of_several_ranks_train_like_the_batch_of_one(
    synthetic: DataSet, tmp_path: Path, strategy: str, batch: str, num_ranks: int, micro: int
) -> None:
    """Of 12, each rank's 6 as 2 + 2 + 2, and 4 + 2. The full batch of 3 ranks is padded to 102: 14 + 14 + 6 each."""
    options = [*OPTIONS, f"batch.size={batch}"]
    one, several = tmp_path / "one", tmp_path / "several"
    train_here(synthetic.root, one, *options)
    parts = [f"batch.micro_size={micro}", f"trainer.strategy={strategy}"]
    run_ranks(num_ranks, "pipeline.train", f"data.path={synthetic.root}", f"run_dir={several}", *options, *parts)
    torch.testing.assert_close(weights_of(several), weights_of(one), rtol=1e-4, atol=1e-6)
    for expected, row in zip(metric_rows(one), metric_rows(several), strict=True):
        for key in ("step", "train/loss", "grad/norm", "val/loss"):
            if key in expected:
                assert row[key] == pytest.approx(expected[key], rel=1e-4), key
