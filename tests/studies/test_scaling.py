"""The study of scaling: what it concludes and draws from runs whose laws are known."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.shards.errors import UserError
from pipeline.studies.scaling import EPOCHS, FEWER_WIDTHS, curve_of, measure
from pipeline.studies.study import Scale, StudyRun, StudyRuns
from pipeline.studies.verdict import Verdict, verdict_of
from pipeline.track.plots import save_plot
from pipeline.track.run_reading import RunRecord, Series

SAMPLES, BATCH = 50_000, 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """Exponents of the loss by size and by data; and what twice the width adds to it where samples are few."""

    of_size: float = 0.65
    of_data: float = 0.35
    overfitting: float = 0.08


AS_IN_THE_PAPER, SIZES_FIRST = Law(), Law(of_size=0.35, of_data=0.65)


def made_up(*, depth: int, width: int, samples: int, epochs: int, seed: int, law: Law) -> RunRecord:
    """Return a run whose loss is 1 + A P^-a + B D^-b; with fewer samples the second term stops falling."""
    parameters = 192.0 * width + 8 * width**2
    seen = samples * np.arange(1, epochs + 1)
    limit = 4 * samples if samples < SAMPLES else np.inf
    noise = 1 + 0.0005 * np.random.default_rng((seed, width, samples)).normal(size=epochs)
    # At width 32 the best is 3 epochs of all samples.
    by_size = 0.5 * law.of_data / law.of_size * (parameters / 14_336) ** -law.of_size
    by_data = 0.5 * (np.minimum(seen, limit) / 150_000) ** -law.of_data
    overfitted = law.overfitting * np.log2(width) * (1 - samples / SAMPLES)
    losses = (1 + by_size + by_data) * noise + overfitted
    config: dict[str, Any] = {
        "seed": seed,
        "batch": {"size": BATCH},
        "data": {"train_samples": None if samples == SAMPLES else samples},
        "model": {"depth": depth, "width": width},
        "trainer": {"max_epochs": epochs},
    }
    summary = {
        "parameters": int(parameters),
        "rate/images_per_s": 1000.0 + seed,
        "rate/flops_per_s": 6 * parameters * (1000.0 + seed),
        "data": {"train_samples": SAMPLES},
    }
    series = {"val/loss": Series(steps=(seen // BATCH).tolist(), values=losses.tolist())}
    return RunRecord(
        folder=Path("runs/0000"), name="0000", config=config, facts={}, summary=summary, series=series, media=[]
    )


def runs_of(law: Law) -> StudyRuns:
    runs = []
    for seed, (width, epochs) in itertools.product(range(3), EPOCHS[Scale.laptop].items()):
        record = made_up(depth=1, width=width, samples=SAMPLES, epochs=epochs, seed=seed, law=law)
        runs.append(StudyRun(group="depth 1", options={}, record=record))
        for samples in (3125, 12500) if width in FEWER_WIDTHS[Scale.laptop] else ():
            record = made_up(depth=1, width=width, samples=samples, epochs=16, seed=seed, law=law)
            runs.append(StudyRun(group="fewer samples", options={}, record=record))
        if width in (16, 32):
            record = made_up(depth=2, width=width, samples=SAMPLES, epochs=epochs, seed=seed, law=law)
            deeper = replace(record, summary=record.summary | {"parameters": record.summary["parameters"] * 2})
            runs.append(StudyRun(group="depth 2", options={}, record=deeper))
    return StudyRuns(runs=runs)


def test_the_verdict_follows_the_laws_that_the_losses_have(tmp_path: Path) -> None:
    outcome = measure(runs_of(AS_IN_THE_PAPER))
    near_paper, samples_first, predicted, width_pays = outcome.checks
    assert near_paper.estimate.value == pytest.approx(0.35, abs=0.06)
    assert samples_first.passes
    assert predicted.passes
    assert width_pays.passes
    # Four times the width, with a sixteenth of the samples; with all of them 9 epochs, of the narrow one 18.
    fewer_epochs = 0.5 * (3**-0.35 - 6**-0.35)
    assert width_pays.estimate.value == pytest.approx(0.08 * 2 * 15 / 16 - fewer_epochs, abs=0.01)
    assert verdict_of(outcome.checks) is not Verdict.fails
    save_plot(tmp_path / "figure.png", outcome.picture.panels, title="t", caption=outcome.picture.caption)
    other = measure(runs_of(replace(SIZES_FIRST, overfitting=-0.02))).checks
    assert other[0].estimate.value == pytest.approx(0.65, abs=0.1)
    assert not other[0].passes
    assert not other[1].passes
    assert not other[3].passes


def test_runs_whose_best_size_is_nowhere_known_are_refused() -> None:
    runs = runs_of(AS_IN_THE_PAPER).runs
    one_width = StudyRuns(runs=[run for run in runs if run.record.config["model"]["width"] == 32])
    with pytest.raises(UserError, match=r"known at 0 values of compute.*more epochs"):
        measure(one_width)


def test_a_table_row_is_a_size_and_a_number_of_samples() -> None:
    outcome = measure(runs_of(AS_IN_THE_PAPER))
    one_block = {width: ["50,000"] for width in EPOCHS[Scale.laptop]}
    one_block |= {width: ["50,000", "12,500", "3,125"] for width in FEWER_WIDTHS[Scale.laptop]}
    assert [row[:4] for row in outcome.rows] == [
        *(
            [1, width, f"{192 * width + 8 * width**2:,}", count]
            for width, counts in one_block.items()
            for count in counts
        ),
        [2, 16, "10,240", "50,000"],
        [2, 32, "28,672", "50,000"],
    ]
    assert {row[-1] for row in outcome.rows} == {3}


def test_compute_is_what_the_samples_seen_cost_and_equal_for_all_seeds() -> None:
    found = [curve_of(run) for run in runs_of(SIZES_FIRST).of("depth 1") if run.record.config["model"]["width"] == 16]
    assert len({tuple(curve.compute) for curve in found}) == 1
    assert found[0].compute[:2] == pytest.approx([6 * 5_120 * SAMPLES, 2 * 6 * 5_120 * SAMPLES])
