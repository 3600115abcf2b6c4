"""Tiny synthetic data sets, prepared in the test's own process."""

from __future__ import annotations

from pathlib import Path

from data_prep.config import PREPARE_SCHEMAS
from data_prep.prepare import prepare
from pipeline.compose import compose
from pipeline.shards.manifest import DataSet

TRAIN_SAMPLES = 100
VAL_SAMPLES = 41


def make_synthetic(out: Path, *options: str) -> DataSet:
    """Prepare images of 8x8 at `out`."""
    overrides = [f"out={out}", "source=synthetic", "engine.workers=1", "layout.resolution=8", *options]
    return prepare(compose("prepare", PREPARE_SCHEMAS, overrides))
