"""The study of depth and data: exponents of known power laws, and conclusions in both directions."""

from __future__ import annotations

from pathlib import Path

import pytest

from made_runs import made_run
from pipeline.studies.depth_and_data import (
    DEEP,
    DEPTHS,
    LENGTHS,
    MIDDLE,
    grid_of,
    groups,
    measure,
    wins_from,
)
from pipeline.studies.measures.least_error import least_error
from pipeline.studies.study import ACCURACY, Scale, StudyRuns
from pipeline.studies.verdict import Verdict, verdict_of
from pipeline.track.plots import save_plot

SIZES = tuple(LENGTHS[Scale.laptop])
# Of each depth, the error of 500 samples and its exponent over the number of samples.
LECTURE = {1: (60.0, -0.05), 2: (61.0, -0.07), 4: (63.0, -0.09), 8: (70.0, -0.12)}
OPPOSITE = {1: (70.0, -0.12), 2: (63.0, -0.09), 4: (61.0, -0.07), 8: (60.0, -0.05)}


def runs_told(laws: dict[int, tuple[float, float]]) -> StudyRuns:
    """Three seeds a percent of the error apart; the best evaluation is neither the first nor the last."""
    runs = []
    for depth, (start, exponent) in laws.items():
        for size in SIZES:
            for seed in (2, 0, 1):
                error = start * (size / SIZES[0]) ** exponent * (1 + seed / 100) / 100
                config = {"seed": seed, "model": {"depth": depth}, "data": {"train_samples": size}}
                summary = {"parameters": 1000 * depth}
                series = {ACCURACY: [0.1, 1 - error, 0.2]}
                runs.append(made_run(f"{size} samples", config=config, summary=summary, series=series))
    return StudyRuns(runs=runs)


def test_errors_are_those_of_the_best_evaluation_by_seed() -> None:
    runs = runs_told(LECTURE)
    assert least_error(runs.runs[1]) == pytest.approx(60.0)
    grid = grid_of(runs)
    assert grid.sizes == list(SIZES)
    assert grid.errors[DEEP][500] == pytest.approx([70.0, 70.7, 71.4])
    assert grid.gain(DEEP, 500) == pytest.approx([-10.0, -10.1, -10.2])
    assert grid.parameters == {depth: 1000 * depth for depth in DEPTHS}


def test_exponents_are_those_of_the_power_laws() -> None:
    grid = grid_of(runs_told(LECTURE))
    for depth, (_, exponent) in LECTURE.items():
        assert grid.slopes(depth) == pytest.approx([exponent] * 3)
        assert grid.slope(depth).value == pytest.approx(exponent)


def test_a_depth_wins_from_the_samples_where_its_line_crosses() -> None:
    grid = grid_of(runs_told(LECTURE))
    # 63 r^-0.09 = 60 r^-0.05 at r = (63/60)^25 = 3.4, and 70 r^-0.12 = 60 r^-0.05 at r = (7/6)^(1/0.07) = 9.0.
    assert wins_from(grid, MIDDLE) == 2000
    assert wins_from(grid, DEEP) == 8000
    assert wins_from(grid_of(runs_told(LECTURE | {DEEP: (99.0, -0.05)})), DEEP) is None
    # What wins at first and loses later does not win from there on.
    assert wins_from(grid_of(runs_told(OPPOSITE)), DEEP) is None


def test_the_claim_holds_of_what_the_lecture_tells_and_fails_of_its_opposite(tmp_path: Path) -> None:
    outcome = measure(runs_told(LECTURE))
    assert verdict_of(outcome.checks) is Verdict.holds
    assert outcome.checks[0].estimate.value == pytest.approx(-0.07)
    save_plot(tmp_path / "figure.png", outcome.picture.panels, title="", caption="")
    assert [row[0] for row in outcome.rows] == [str(depth) for depth in DEPTHS]
    assert verdict_of(measure(runs_told(OPPOSITE)).checks) is Verdict.fails


def test_a_grid_with_a_hole_is_refused() -> None:
    runs = runs_told(LECTURE).runs
    for hole in (runs[1:], [run for run in runs if run.group != "500 samples" or run.record.config["seed"] == 0]):
        with pytest.raises(ValueError, match="every depth"):
            grid_of(StudyRuns(runs=hole))


@pytest.mark.parametrize("scale", Scale)
def test_each_seed_has_samples_of_its_own(scale: Scale) -> None:
    found = groups(scale, "0,7")
    assert len(found) == 2 * len(LENGTHS[scale])
    for group in found:
        seed = next(option for option in group.options if option.startswith("seed=")).partition("=")[2]
        assert f"data.subset_seed={seed}" in group.options
        assert f"data.train_samples={group.name.split()[0]}" in group.options
