"""The study of data larger than memory: what it reads from a run's folder, and what it concludes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from made_runs import made_run
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.studies.measures.memory_reading import MB, Reading, largest_difference, num_not_once, read_back
from pipeline.studies.memory import CAP_BYTES, CAPPED, EMPTY, JUMPING, TOLD, WHOLE, conclude
from pipeline.studies.study import StudyRun, StudyRuns
from pipeline.studies.verdict import Verdict, verdict_of
from pipeline.track.run_reading import read_run
from runs import train_here

CAP_MB = CAP_BYTES / MB
# Of two epochs of ten caps each, a row every half cap.
READ_MB = [CAP_MB * row / 2 for row in range(1, 41)]
BASE_MB = 400.0
FLAT = [BASE_MB + min(read, 0.9 * CAP_MB) for read in READ_MB]
GROWING = [BASE_MB + min(read, 10 * CAP_MB) for read in READ_MB]
MEMORY = {CAPPED: FLAT, WHOLE: GROWING, JUMPING: FLAT, EMPTY: [BASE_MB] * len(READ_MB)}
LOSSES = [2.0 / row for row in range(1, 41)]


def reading(memory_mb: Sequence[float], *, seed: int, num_not_once: int = 0) -> Reading:
    return Reading(
        read_mb=READ_MB,
        memory_mb=[value + seed / 10 for value in memory_mb],
        epoch_mb=10 * CAP_MB,
        num_not_once=num_not_once,
    )


def run_of(name: str, *, seed: int, losses: Sequence[float | None]) -> StudyRun:
    summary = {"rate/images_per_s": 1000.0 + seed}
    return made_run(name, config={"seed": seed}, summary=summary, series={"train/loss": losses})


@pytest.mark.parametrize(
    ("capped", "whole", "num_not_once", "losses", "failing"),
    [
        (FLAT, GROWING, 0, LOSSES, []),
        # It keeps 5 of 100 MB, on and on.
        ([value + 0.05 * read for value, read in zip(FLAT, READ_MB, strict=True)], GROWING, 0, LOSSES, [0, 2]),
        ([value + CAP_MB for value in FLAT], GROWING, 0, LOSSES, [2]),
        (FLAT, GROWING, 1, LOSSES, [3]),
        (FLAT, GROWING, 0, [*LOSSES[:-1], LOSSES[-1] + 1e-5], [4]),
        # The two ways of reading, swapped.
        (GROWING, FLAT, 0, LOSSES, [0, 1, 2]),
    ],
)
def test_each_part_of_the_claim_fails_by_its_own_fault(
    capped: list[float], whole: list[float], num_not_once: int, losses: list[float], failing: list[int]
) -> None:
    memory = {**MEMORY, CAPPED: capped, WHOLE: whole}
    readings = {
        name: [reading(memory[name], seed=seed, num_not_once=num_not_once * (name == CAPPED)) for seed in range(3)]
        for name in TOLD
    }
    runs = [run_of(name, seed=seed, losses=losses if name == CAPPED else LOSSES) for name in TOLD for seed in range(3)]
    outcome = conclude(StudyRuns(runs=runs), readings)
    assert [place for place, check in enumerate(outcome.checks) if not check.passes] == failing
    assert verdict_of(outcome.checks) is (Verdict.conditions if failing else Verdict.holds)


def test_the_numbers_are_those_of_the_lines_that_the_runs_were_made_of() -> None:
    readings = {name: [reading(MEMORY[name], seed=seed) for seed in range(3)] for name in TOLD}
    runs = StudyRuns(runs=[run_of(name, seed=seed, losses=LOSSES) for name in TOLD for seed in range(3)])
    outcome = conclude(runs, readings)
    assert [check.estimate.value for check in outcome.checks] == pytest.approx([0.0, 100.0, 0.9, 0.0, 0.0], abs=1e-9)
    assert outcome.rows[0][1] == f"{0.9 * CAP_MB:.1f} ± 0.0"
    whole, capped = outcome.picture.panels[0].series
    assert whole.y[-1] - capped.y[-1] == pytest.approx(9.1 * CAP_MB)


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        ([[0, 1], [2, 3], [3, 0], [1, 2]], 0),
        ([[0, 1], [2, 3], [3, 0], [1, 1]], 2),  # one twice, one never
        ([[0, 1], [2, 3], [3, 0]], 2),  # an epoch that was broken off
        ([[0, 1], [2, 3]], 4),  # one that was not begun
        ([], 8),
    ],
)
def test_samples_are_counted_epoch_by_epoch(tmp_path: Path, steps: list[list[int]], wrong: int) -> None:
    path = tmp_path / "ids"
    path.write_text("".join(f"{json.dumps({'step': number, 'ids': ids})}\n" for number, ids in enumerate(steps)))
    assert num_not_once(path, num_samples=4, steps_per_epoch=2, num_epochs=2) == wrong


def test_losses_that_are_not_finite_are_not_taken_for_equal() -> None:
    first, second = (run_of(CAPPED, seed=0, losses=losses) for losses in (LOSSES, [*LOSSES[:-1], LOSSES[-1] + 0.5]))
    assert largest_difference(first, second) == pytest.approx(0.5)
    broken = run_of(CAPPED, seed=0, losses=[*LOSSES[:-1], None])
    with pytest.raises(UserError, match=r"train/loss at step 40 is not finite"):
        largest_difference(broken, broken)


def test_a_run_under_a_cap_is_read_back_and_read_each_sample_once(synthetic: DataSet, tmp_path: Path) -> None:
    short = ["batch.size=20", "trainer.max_epochs=2", "trainer.log_every_steps=1", "log_sample_ids=true"]
    capped = ["order=window", "order.lanes=2", "order.window_chunks=1", "data.memory_bytes=8388608"]
    train_here(synthetic.root, tmp_path / "run", *short, *capped)
    found = read_back(StudyRun(group=CAPPED, options={}, record=read_run(tmp_path / "run")))
    size_mb = sum(shard.path.stat().st_size for shard in synthetic.split("train").shards) / 1e6
    assert found.epoch_mb == size_mb
    assert found.read_mb == pytest.approx([size_mb * step / 5 for step in range(1, 11)])
    assert 50 < found.memory_mb[0] <= found.peak_mb < 50_000
    assert found.num_not_once == 0
