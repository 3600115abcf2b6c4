"""The largest batch that fits, found by real tries under a real limit of memory."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.batch_finder import bounds, find, main, memory_limit
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.sweep_config import BatchFinderConfig, Option
from pipeline.sweeping.memory_try import judge
from pipeline.sweeping.resolve import resolve
from synthetic_data import make_synthetic

# One layer whose outputs are 128 kB a sample, several times over; its 6.6 million weights are little beside them.
WIDE = ["model=mlp", "model.hidden=[32768]", "optimizer=sgd", "optimizer.momentum=0", "trainer.device=cpu"]
# What a rank may have beside what a start of training takes: 0.3 GB, 0.9 GB where torch comes with CUDA.
ROOM_BYTES = 650_000_000


def started_bytes() -> int:
    """Return the private writable memory of a process that has imported training."""
    code = "import pipeline.train; print(open('/proc/self/status').read())"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    found = re.search(r"^VmData:\s+(\d+) kB$", printed, re.MULTILINE)
    assert found is not None
    return int(found.group(1)) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_lack_of_memory_is_an_answer_on_one_rank_and_on_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ranks: int
) -> None:
    data = make_synthetic(tmp_path / "data", "source.samples=4096", "source.val_samples=2").root
    limit_bytes = started_bytes() + ROOM_BYTES
    typed = [f"data.path={data}", *WIDE, f"batch_finder.ranks={ranks}", f"batch_finder.memory_bytes={limit_bytes}"]
    assert main([*typed, f"batch_finder.first={1024 * ranks}", "batch_finder.tolerance_frac=0.99"]) == 0
    told = capsys.readouterr().out
    found = re.search(r"largest     batch.size=(\d+); batch.size=(\d+) does not fit", told)
    assert found is not None, told
    largest, too_large = int(found.group(1)), int(found.group(2))
    assert largest < too_large <= 2 * largest
    assert largest % ranks == 0
    # Outputs and their gradients alone, on each rank.
    assert too_large // ranks * 32768 * 4 * 2 < 4 * ROOM_BYTES
    assert largest // ranks * 32768 * 4 < ROOM_BYTES


@pytest.mark.slow
def test_all_that_there_is_fits(synthetic: DataSet) -> None:
    config = resolve([f"data.path={synthetic.root}", "model=mlp", "model.hidden=[16]", "trainer.device=cpu"])
    found, tries = find(config, BatchFinderConfig(first=200))
    assert (found.largest, found.too_large, len(tries)) == (100, None, 1)


@pytest.mark.slow
def test_what_fails_by_something_else_is_an_error_with_its_reason(synthetic: DataSet) -> None:
    config = resolve([f"data.path={synthetic.root}", "model=mlp", "trainer.device=cpu", "data.val_split=nothing"])
    with pytest.raises(UserError, match=r"a try failed, and not for memory: error: .*nothing"):
        find(config, BatchFinderConfig(first=50))


def test_sizes_are_multiples_of_ranks_and_lanes_within_the_data(synthetic: DataSet) -> None:
    data = f"data.path={synthetic.root}"
    assert bounds(resolve([data]), BatchFinderConfig(ranks=3)) == (3, 100)
    window = [data, "order=window", "order.lanes=4", "batch.size=12"]
    assert bounds(resolve(window), BatchFinderConfig(ranks=6, most=50)) == (12, 50)
    micro = BatchFinderConfig(option=Option.micro_size, ranks=2)
    assert bounds(resolve([data, "batch.size=20"]), micro) == (2, 20)
    assert bounds(resolve([data, "batch.size=full"]), micro) == (2, 100)
    with pytest.raises(UserError, match="no multiple of 101"):
        bounds(resolve([data]), BatchFinderConfig(ranks=101))
    with pytest.raises(UserError, match="option=micro_size"):
        bounds(resolve([data, "batch.micro_size=5"]), BatchFinderConfig())


def test_each_rank_on_the_cpu_has_its_share_of_what_is_free() -> None:
    config = resolve(["trainer.device=cpu"])
    one, four = (memory_limit(config, BatchFinderConfig(ranks=ranks)) for ranks in (1, 4))
    assert one is not None
    assert four is not None
    assert 0.2 < four / one < 0.3
    assert memory_limit(config, BatchFinderConfig(memory_bytes=5)) == 5


@pytest.mark.parametrize(
    ("exit_code", "printed", "fits"),
    [
        (0, "warning: out of memory was near", True),
        (1, "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", False),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", False),
        (1, "MemoryError", False),
        (-6, "terminate called after throwing an instance of 'std::bad_alloc'", False),
        (1, "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling", False),
        (-signal.SIGKILL, "", False),
        (137, "", False),
        (1, "  exitcode  : -9 (pid: 12)", False),
        (1, "ValueError: shapes", None),
        (2, "error: no such folder", None),
    ],
)
def test_what_a_try_ended_with_is_told_apart(tmp_path: Path, exit_code: int, printed: str, fits: bool | None) -> None:
    log = tmp_path / "log"
    log.write_text(printed)
    if fits is None:
        with pytest.raises(UserError, match="not for memory"):
            judge(exit_code, log)
    else:
        assert judge(exit_code, log).fits is fits
