"""What model and loader alone are timed at: the model as in the run, the loader as far as all ranks can read."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.data.loader import Batch, BatchLoader
from pipeline.data.order import FullOrder, Slots
from pipeline.data.reader import Int64Array
from pipeline.model.mlp import mlp
from pipeline.shards.errors import UserError
from pipeline.track import ceilings
from pipeline.track.ceilings import HowUpdated, loader_images_per_s, model_images_per_s
from pipeline.training.augmentation import Augmentation
from pipeline.training.module import ClassifierModule
from pipeline.training.objective import Objectives, cross_entropy
from pipeline.training.scores import Scores
from pipeline.training.step_plan import StepPlan
from spawned import on_ranks

SLOTS, SIDE, CLASSES = 4, 2, 3


def make_module() -> ClassifierModule:
    return ClassifierModule(
        mlp(in_features=SIDE * SIDE * 3, widths=[8], num_classes=CLASSES),
        objectives=Objectives(training=cross_entropy, evaluation=cross_entropy, scores=Scores.softmax),
        make_optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        plan=StepPlan(steps_per_epoch=1, total_steps=1, micro_batches=1, rate_at=lambda _: 0.1),
        augmentation=Augmentation(),
        mean=[127.5] * 3,
        std=[127.5] * 3,
        seed=0,
    )


def make_batch() -> Batch:
    return Batch(
        images_BHWC=torch.zeros(SLOTS, SIDE, SIDE, 3, dtype=torch.uint8),
        labels_B=torch.arange(SLOTS) % CLASSES,
        weights_B=torch.ones(SLOTS),
        positions_B=torch.arange(SLOTS),
        sample_ids=np.arange(SLOTS, dtype=np.int64),
        epoch=0,
        step=0,
        micro=0,
        global_weight=float(SLOTS),
        buffer=0,
    )


def exchanges(rank: int, compresses: bool) -> int:
    """Return how many buckets were exchanged in bfloat16."""
    counted: list[Any] = []
    exchange = ceilings.average_in_bf16

    @functools.wraps(exchange)
    def counting(group: Any, bucket: Any) -> Any:
        counted.append(bucket)
        return exchange(group, bucket)

    ceilings.average_in_bf16 = counting
    assert model_images_per_s(make_module(), make_batch(), how=HowUpdated(compresses=compresses), max_s=0.01) > 0
    return len(counted)


@pytest.mark.slow
def test_gradients_are_exchanged_as_in_the_run(tmp_path: Path) -> None:
    for compresses in (True, False):
        folder = tmp_path / f"{compresses}"
        folder.mkdir()
        assert [count > 0 for count in on_ranks(2, exchanges, folder, compresses)] == [compresses] * 2


class FailingReader:
    """Gives grey images, and from some batch on none."""

    image_shape = (1, 1, 1)
    num_samples = 40

    def __init__(self, *, num_good: float) -> None:
        self.num_good = num_good

    def start(self, uses: Iterator[Any]) -> None:
        pass

    def fill(self, slots: Slots, *, epoch: int, out: torch.Tensor) -> Int64Array:
        self.num_good -= 1
        if self.num_good < 0:
            raise UserError("the server is gone")
        return np.zeros(len(slots), dtype=np.int64)

    def finish(self, step: int) -> None:
        pass


def loader_rates(rank: int) -> list[float | None]:
    """Return what is measured where rank 1 alone cannot read on, and then where both can."""
    found = []
    for num_good in ((math.inf, 3)[rank], math.inf):
        reader: Any = FailingReader(num_good=num_good)
        order = FullOrder(num_samples=40, batch_size=10, seed=0)
        loader = BatchLoader(reader, order, rank=rank, world_size=2, prefetch=1)
        found.append(loader_images_per_s(loader, device=torch.device("cpu"), max_s=0.1))
    return found


@pytest.mark.slow
def test_where_one_rank_cannot_read_all_know_and_go_on_together(tmp_path: Path) -> None:
    (failed, rate), other = on_ranks(2, loader_rates, tmp_path)
    assert failed is None
    assert rate is not None
    assert rate > 0
    assert other == [failed, rate]


@pytest.mark.parametrize("mode", [None, "default", "max-autotune"])
def test_the_model_is_compiled_as_in_the_run(mode: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(nn.Sequential, "compile", lambda self, *, mode: modes.append(mode))
    assert model_images_per_s(make_module(), make_batch(), how=HowUpdated(compile_mode=mode), max_s=0.01) > 0
    assert modes == ([] if mode is None else [mode])
