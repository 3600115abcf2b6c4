"""Data four times the memory of a control group: a whole epoch comes in, and memory stays where it is."""

from __future__ import annotations

import pytest

from benchmarks.larger_than_memory import Outcome, parse, prepared, spawn
from benchmarks.memory_group import MemoryGroup, NoGroupError

LIMIT_MB = 192
SAMPLES = 60_000
MIB = 1 << 20


@pytest.fixture(scope="module")
def argv(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of 60,000 images in 820 MiB; nothing is prepared where there is no control group."""
    try:
        MemoryGroup(limit_bytes=LIMIT_MB * MIB).close()
    except NoGroupError as error:
        pytest.skip(str(error))
    options = ["--samples", str(SAMPLES), "--shard-mb", "1", "--limit-mb", str(LIMIT_MB), "--max-s", "300"]
    options += ["--cache", str(tmp_path_factory.mktemp("limit"))]
    prepared(parse(options))
    return options


def whole_epoch(outcome: Outcome) -> None:
    assert outcome.is_once_each
    assert outcome.samples == SAMPLES // 256 * 256


@pytest.mark.slow
def test_an_epoch_under_a_limit_reads_each_image_once_and_holds_no_more_than_the_budget(argv: list[str]) -> None:
    outcome = spawn("window", argv)
    whole_epoch(outcome)
    assert outcome.budget_bytes <= LIMIT_MB * MIB // 2
    # Room beside the budget: what is being dropped, and the files of libraries.
    assert max(outcome.file_bytes) <= outcome.budget_bytes + 24 * MIB
    assert max(outcome.mapped_bytes) - outcome.mapped_bytes[0] <= outcome.budget_bytes + 24 * MIB
    # Of the dropped rest, and what was read for a next step that never came, a little.
    assert outcome.read_bytes <= 1.1 * SAMPLES * 14_336


@pytest.mark.slow
def test_training_under_a_limit_goes_through_the_epoch(argv: list[str]) -> None:
    whole_epoch(spawn("training", argv))
