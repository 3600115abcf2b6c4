"""An evaluation by plain torch, all samples at once: what a run's own must agree with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.build_model import build_model
from pipeline.data.order import slots_of
from pipeline.data.packed import PackedReader
from pipeline.model_config import MlpConfig
from pipeline.shards.manifest import DataSet
from pipeline.training.checkpoint import load_checkpoint, newest_whole_checkpoint
from pipeline.training.ema import evaluated_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """Of each sample, in the order of the ids asked for."""

    ids: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    shares: np.ndarray
    losses: np.ndarray

    @property
    def loss(self) -> float:
        return float(self.losses.mean())

    @property
    def top1_frac(self) -> float:
        return float((self.shares.argmax(axis=1) == self.labels).mean())


def evaluate_plainly(data: DataSet, split: str, run_dir: Path, *, ids: np.ndarray | None = None) -> Evaluated:
    """Evaluate a run with one hidden layer of 16, its newest checkpoint, on packed images."""
    checkpoint = newest_whole_checkpoint(run_dir / "checkpoints")
    assert checkpoint is not None
    reader = PackedReader(data, split)
    ids = np.arange(reader.num_samples) if ids is None else ids
    images = torch.empty((len(ids), *reader.image_shape), dtype=torch.uint8)
    labels = torch.from_numpy(reader.fill(slots_of(ids), epoch=0, out=images))
    reader.close()
    model = build_model(
        MlpConfig(hidden=[16]), in_features=images[0].numel(), num_classes=data.num_classes, seed=0
    ).eval()
    weights = evaluated_weights(load_checkpoint(checkpoint))
    model.load_state_dict({name.removeprefix("model."): value for name, value in weights.items()})
    assert data.statistics is not None
    pixels = (images - torch.tensor(data.statistics.mean)) / torch.tensor(data.statistics.std)
    with torch.no_grad():
        logits = model(pixels.flatten(1).float())
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return Evaluated(
        ids=ids,
        images=images.numpy(),
        labels=labels.numpy(),
        shares=logits.softmax(dim=1).numpy(),
        losses=losses.numpy(),
    )
