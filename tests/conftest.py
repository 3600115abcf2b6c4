"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from data_prep.config import PREPARE_SCHEMAS
from data_prep.prepare import prepare
from pipeline.compose import compose
from pipeline.shards.manifest import DataSet

# Tiny tensors gain nothing from threads, and ranks beside them lose.
torch.set_num_threads(1)

# A busy machine is no failure.
settings.register_profile("tarmac", deadline=None)
settings.load_profile("tarmac")

TRAIN_SAMPLES = 100
VAL_SAMPLES = 41


def make_synthetic(out: Path, *options: str) -> DataSet:
    """Prepare a data set of tiny synthetic images in this process."""
    overrides = [f"out={out}", "source=synthetic", "engine.workers=1", "layout.resolution=8", *options]
    return prepare(compose("prepare", PREPARE_SCHEMAS, overrides))


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """100 training and 41 validation images of 8x8 in several shards; 41 is prime, so no rank count divides it."""
    return make_synthetic(
        tmp_path_factory.mktemp("data") / "synthetic",
        f"source.samples={TRAIN_SAMPLES}",
        f"source.val_samples={VAL_SAMPLES}",
        "source.classes=7",
        "layout.shard_bytes=60000",
    )


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
