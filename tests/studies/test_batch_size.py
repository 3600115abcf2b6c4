"""The study of batch sizes: what it tunes, concludes and draws from made-up runs; costs against a closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.studies.batch_runs import (
    EPOCHS,
    LION_RATES,
    LION_SIZES,
    LONG,
    LONG_RATES,
    RATES,
    SIZES,
    TUNING_SEED,
    UPDATES,
    follow_up,
    groups,
    tuned_rate,
)
from pipeline.studies.batch_size import TARGET_LOSS, measure
from pipeline.studies.measures.batch_costs import Cost, best_speed, cost_to
from pipeline.studies.study import Scale, StudyRun, StudyRuns
from pipeline.studies.verdict import Verdict, verdict_of
from pipeline.sweeping.axes import points, read_swept
from pipeline.track.plots import save_plot
from pipeline.track.run_reading import RunRecord, Series

WHOLE = 8192
# Accuracy, %, in favour of the lecture: by way and size.
LECTURE = {
    EPOCHS: {1: 42.0, 8: 42.5, 32: 43.0, 64: 42.0, 128: 41.0, 512: 39.0, 4096: 29.0, WHOLE: 26.0},
    UPDATES: {1: 23.0, 8: 30.0, 32: 35.0, 64: 39.0, 128: 41.0, 512: 45.0, 4096: 47.0, WHOLE: 47.0},
}
LARGER_IS_BETTER = {way: {size: 20 + 2 * math.log2(size) for size in (*SIZES, WHOLE)} for way in RATES}


def record_of(*, seed: int, accuracy: float, size: int = 64, updates_to_target: float = 50.0) -> RunRecord:
    """Return a run whose training loss falls in a straight line to the target, 2.25 - 0.5 * updates / wanted."""
    steps, update_s = list(range(10, 1001, 10)), 1e-3 * (1 + size / 500)
    losses = [2.25 - 0.5 * (step - 5) / updates_to_target for step in steps]
    series = {
        "train/loss": Series(steps=list(steps), values=list(losses)),
        "rate/images_per_s": Series(steps=list(steps), values=[size / update_s] * len(steps)),
    }
    config: dict[str, Any] = {"seed": seed, "trainer": {"max_epochs": 2, "max_steps": 128}}
    return RunRecord(
        folder=Path("runs/0000"),
        name="0000",
        config=config,
        facts={},
        summary={"val/top1_frac": accuracy / 100},
        series=series,
        media=[],
    )


def runs_of(
    accuracy: dict[str, dict[int, float]], *, lion_gain: float = -3.0, long_loss: tuple[float, float] = (1.9, 1.5)
) -> StudyRuns:
    """Return all runs: `lion_gain` is what eight times the batch adds at the bottleneck MLP.

    Args:
        long_loss: after many epochs, of the small and of the large batch.
    """
    runs = []
    for way, rates in RATES.items():
        for size, middle in zip((*SIZES, WHOLE), rates, strict=True):
            for factor, loss in ((0.5, 3.0), (1, 0.0), (2, 1.0)):
                tuning = record_of(seed=TUNING_SEED, accuracy=accuracy[way][size] - loss, size=size)
                typed = {"optimizer.rate": f"{middle * factor:.4g}"}
                runs.append(StudyRun(group=f"tuning, {way}, {size}", options=typed, record=tuning))
            for seed in range(3):
                found = record_of(
                    seed=seed, accuracy=accuracy[way][size] + 0.1 * seed, size=size, updates_to_target=50 + 800 / size
                )
                runs.append(StudyRun(group=f"{way}, {size}", options={"seed": str(seed)}, record=found))
    for place, size in enumerate(LION_SIZES):
        for rate_place, rate in enumerate(LION_RATES):
            for seed in (TUNING_SEED, 0, 1, 2):
                # The middle rate is the best of each size; at a high rate small batches lose more.
                loss = 2.0 * (rate_place != 1) + 8.0 * (rate_place == 2 and size == LION_SIZES[0])
                found = record_of(seed=seed, accuracy=45 + lion_gain * place - loss + 0.1 * seed % 1)
                runs.append(StudyRun(group=f"lion, {size}", options={"optimizer.rate": str(rate)}, record=found))
    for loss, (size, rates) in zip(long_loss, LONG_RATES.items(), strict=True):
        for place, rate in enumerate(rates):
            tuning = record_of(seed=TUNING_SEED, accuracy=48 - place)
            runs.append(StudyRun(group=f"tuning, {LONG}, {size}", options={"optimizer.rate": str(rate)}, record=tuning))
        for seed in range(3):
            found = record_of(seed=seed, accuracy=48)
            found = replace(found, summary=found.summary | {"val/loss": loss + 0.01 * seed})
            runs.append(StudyRun(group=f"{LONG}, {size}", options={"seed": str(seed)}, record=found))
    return StudyRuns(runs=runs)


def test_the_verdict_follows_the_accuracies(tmp_path: Path) -> None:
    outcome = measure(runs_of(LECTURE))
    assert [check.passes for check in outcome.checks] == [True, True, True, True, True, False, True, True]
    assert outcome.checks[0].estimate.value == pytest.approx(13.0)
    assert outcome.checks[4].estimate.value == pytest.approx(8.0)
    assert verdict_of(outcome.checks) is Verdict.conditions
    save_plot(tmp_path / "figure.png", outcome.picture.panels, title="t", caption=outcome.picture.caption)


def test_where_larger_batches_are_better_the_paper_is_right_and_the_lecture_wrong() -> None:
    checks = measure(runs_of(LARGER_IS_BETTER, lion_gain=2.0, long_loss=(1.5, 1.6))).checks
    assert [checks[place].passes for place in (0, 1, 4, 5, 6)] == [False, False, True, True, False]
    assert checks[5].estimate.value == pytest.approx(4.0)


def test_the_follow_up_runs_each_size_at_the_rate_that_was_best_on_the_tuning_seed() -> None:
    runs = runs_of(LECTURE)
    assert tuned_rate(runs, EPOCHS, 64) == "0.03"
    found = follow_up(runs, Scale.laptop, "0,1,2")
    assert len(found) == 2 * (len(SIZES) + 1) + len(LONG_RATES)
    assert "optimizer.rate=0.0003" in found[-2].options
    rates = {option for group in found if group.name == f"{UPDATES}, 512" for option in group.options}
    assert {"optimizer.rate=0.12", "seed=0,1,2", "batch.size=512"} <= rates
    high = StudyRuns(
        runs=[
            replace(run, record=replace(run.record, summary={"val/top1_frac": 0.9}))
            if run.group == f"tuning, {EPOCHS}, 64" and run.options["optimizer.rate"] == "0.06"
            else run
            for run in runs.runs
        ]
    )
    assert tuned_rate(high, EPOCHS, 64) == "0.06"
    assert "64 (equal epochs)" in measure(high).notes[-1]


@pytest.mark.parametrize("scale", Scale)
def test_what_tunes_and_what_is_reported_share_no_seed(scale: Scale) -> None:
    for group in groups(scale, "0,1,2"):
        seeds = {point["seed"] for point in points(read_swept(list(group.options)).axes) if "seed" in point}
        assert seeds <= {str(TUNING_SEED), "0", "1", "2"}
        assert group.name.startswith("tuning") is (f"seed={TUNING_SEED}" in group.options)


def test_costs_are_those_of_a_loss_that_falls_in_a_straight_line() -> None:
    # Rows every 10 steps, each the mean of its steps: 2.25 - 0.5 * u / 37 is 1.75 after 37 updates.
    cost = cost_to(
        record_of(seed=0, accuracy=1, size=100, updates_to_target=37.0), loss=TARGET_LOSS, batch=100, images_per_s=1000
    )
    assert cost is not None
    assert [cost.updates, cost.samples] == pytest.approx([37.0, 3700.0])
    assert cost.seconds == pytest.approx(3.7)


def test_a_loss_that_the_first_row_has_is_its_middle_and_one_that_is_never_reached_costs_nothing_known() -> None:
    record = record_of(seed=0, accuracy=1, size=100)
    first = cost_to(record, loss=3.0, batch=100, images_per_s=1000)
    assert first == Cost(updates=5.0, samples=500.0, seconds=0.5)
    assert cost_to(record, loss=-9.0, batch=100, images_per_s=1000) is None


def test_a_size_that_never_reaches_the_target_has_no_cost_and_passes_no_check_of_it(tmp_path: Path) -> None:
    runs = runs_of(LECTURE)
    flat = Series(steps=[100], values=[2.0])
    stuck = [
        replace(run, record=replace(run.record, series=run.record.series | {"train/loss": flat}))
        if run.group.endswith(f", {WHOLE}") and not run.group.startswith(("tuning", "lion", LONG))
        else run
        for run in runs.runs
    ]
    outcome = measure(StudyRuns(runs=stuck))
    assert [check.passes for check in outcome.checks[2:4]] == [True, False]
    assert outcome.rows[-1][5:8] == ["not reached"] * 3
    assert outcome.rows[0][5] == "850 ± 0"
    assert [len(series.x) for series in outcome.picture.panels[1].series] == [len(SIZES)] * 3
    save_plot(tmp_path / "figure.png", outcome.picture.panels, title="t", caption="c")


def test_the_speed_is_the_best_usual_one_without_the_start() -> None:
    record = record_of(seed=0, accuracy=1)

    def with_speeds(*speeds: float) -> RunRecord:
        rows = Series(steps=list(range(len(speeds))), values=list(speeds))
        return replace(record, series=record.series | {"rate/images_per_s": rows})

    assert best_speed([with_speeds(9000.0, 100.0, 200.0, 5000.0), with_speeds(300.0, 50.0)]) == 200
    assert best_speed([with_speeds(50.0)]) == 50
