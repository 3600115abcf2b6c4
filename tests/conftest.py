"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import gc
import logging
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from multiprocessing.util import get_temp_dir

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
# Whoever runs the tests may have a key of W&B: what a test trains is not sent there.
os.environ["WANDB_MODE"] = "offline"
# Tiny tensors gain nothing from threads, and ranks beside them lose.
torch.set_num_threads(1)

# What a shell or nohup has made the tests ignore, the processes that they start would ignore too.
for _number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with the most slow tests first: files are shared out whole, and the last one is waited for alone."""
    num_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -num_slow[item.path])


def pytest_collection_finish() -> None:
    """Spare the garbage collector the 400,000 objects of imported libraries, which it would visit again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give this process, and all that it starts, a folder for temporary files that is removed at the end.

    torchrun and others leave theirs. Compiled code is kept, for the next time.
    """
    # These stay where they are, and remove themselves.
    tmp_path_factory.getbasetemp()
    get_temp_dir()
    compiled = os.environ.get("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/tarmac-inductor-{os.getuid()}")
    # A short name: paths of sockets have at most 107 bytes.
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="tarmac-", ignore_cleanup_errors=True) as folder,
    ):
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", compiled)
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


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
