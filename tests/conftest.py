"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import logging
import signal

import hypothesis
import pytest
import torch

from pipeline.shards.manifest import DataSet
from synthetic_data import TRAIN_SAMPLES, VAL_SAMPLES, make_synthetic

# Timings never decide a test, nor does the day: the same inputs each time, others by the profile `fuzz`.
hypothesis.settings.register_profile("untimed", deadline=None, derandomize=True)
hypothesis.settings.register_profile(
    "fuzz", deadline=None, max_examples=20_000, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("untimed")
# Tiny tensors gain nothing from threads, and ranks beside them lose.
torch.set_num_threads(1)

# What a shell or nohup has made the tests ignore, the processes that they start would ignore too.
for _number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


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
