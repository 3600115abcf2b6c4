"""Which charts a run makes, and that thinning hides nothing."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.track.report.chart_data import MAX_NUMBERS, MOST_CURVES_A_CHART, Entry, chart_data
from pipeline.track.report.curves import Chart, Curve, charts_of, single_numbers
from pipeline.track.report.thinning import bucket_means, picked
from pipeline.track.run_reading import RunRecord
from report_runs import LAYERS, series, write_run

VALUES = st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=300)


def by_key(run: RunRecord) -> dict[str, Chart]:
    charts = charts_of(run)
    assert len({chart.key for chart in charts}) == len(charts)
    return {chart.key: chart for chart in charts}


def test_every_metric_is_drawn_once_or_told_as_a_number(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    drawn = [curve.series for chart in charts_of(run) for curve in chart.curves]
    bands = 2  # the noise scale's ends
    assert len(drawn) + bands + len(single_numbers(run)) == len(run.series) - len(["epoch"])
    assert set(single_numbers(run)) == {"rate/compute_frac", "rate/data_frac", "rate/framework_frac"}


def test_training_and_evaluation_share_a_chart(tmp_path: Path) -> None:
    charts = by_key(write_run(tmp_path / "run"))
    loss = charts["quality/loss"]
    assert [(curve.name, curve.series.steps[0]) for curve in loss.curves] == [("train", 10), ("val", 100)]
    assert loss.title == "Loss"
    assert charts["quality/top1_frac"].unit == "frac"


def test_a_metric_that_nobody_knows_has_a_chart_in_a_group_of_its_first_word(tmp_path: Path) -> None:
    rows = {step: {"weather/wind_speed": 1.0, "plain": 2.0} for step in (1, 2)}
    charts = by_key(write_run(tmp_path / "run", rows=rows))
    assert {key: (chart.group, chart.title) for key, chart in charts.items()} == {
        "weather/wind_speed": ("weather", "Wind speed"),
        "plain": ("other", "Plain"),
    }


def test_a_quantity_of_layers_has_one_chart_with_a_curve_a_layer_in_the_order_of_the_model(tmp_path: Path) -> None:
    charts = by_key(write_run(tmp_path / "run"))
    assert [key for key in charts if key.startswith("layers")] == ["layers/weight_norm", "layers/dead_frac"]
    curves = charts["layers/weight_norm"].curves
    assert [curve.name for curve in curves] == list(LAYERS)
    assert [curve.ramp for curve in curves] == [0, 1 / 3, 2 / 3, 1]


def test_ends_of_a_band_are_drawn_as_one_with_their_metric_and_alone_where_it_is_missing(tmp_path: Path) -> None:
    charts = by_key(write_run(tmp_path / "run"))
    (curve,) = charts["grad/noise_scale_images"].curves
    assert curve.low is not None
    assert curve.high is not None
    assert (curve.low[0], curve.series.values[0], curve.high[0]) == (160.0, 200.0, 260.0)
    rows = {step: {"a/x_low_s": 1.0, "a/x_high_s": 2.0, "b/y": 0.0, "b/y_low": 1.0} for step in (1, 2)}
    assert set(by_key(write_run(tmp_path / "other", rows=rows))) == {"a/x_low_s", "a/x_high_s", "b/y", "b/y_low"}


def test_quality_comes_first_and_layers_last(tmp_path: Path) -> None:
    groups = list(dict.fromkeys(chart.group for chart in charts_of(write_run(tmp_path / "run"))))
    assert groups == ["quality", "grad", "rate", "mem", "weather", "layers"]


@given(VALUES, st.integers(5, 60))
def test_thinning_keeps_the_ends_the_extremes_and_the_gaps(values: list[float | None], most: int) -> None:
    chosen = picked(values, most=most)
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= max(most, 0)
    if not values:
        return
    assert {0, len(values) - 1} <= set(chosen)
    finite = [value for value in values if value is not None]
    kept = [values[place] for place in chosen]
    if finite:
        assert min(finite) in kept
        assert max(finite) in kept
    assert (None in kept) == (None in values)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 40))
def test_means_of_stretches_have_the_mean_of_all(values: list[float], buckets: int) -> None:
    steps = [3 * place for place in range(len(values))]
    ends, means = bucket_means(steps, values, buckets=buckets)
    starts = [0, *(end // 3 + 1 for end in ends)]
    weights = [after - before for before, after in itertools.pairwise(starts)]
    total = sum(weight * mean for weight, mean in zip(weights, means, strict=True) if mean is not None)
    assert sum(weights) == len(values)
    assert abs(total / len(values) - statistics.fmean(values)) < 1e-6 * (1 + max(map(abs, values)))


def chart(num_curves: int, *, points: int, ramp: bool = False) -> Chart:
    line = Curve(name="curve", series=series([float(value % 7) for value in range(points)]))
    curves = (dataclasses.replace(line, ramp=place / num_curves if ramp else None) for place in range(num_curves))
    return Chart(group="g", key="g/k", title="Title", unit="", curves=tuple(curves))


def numbers_in(content: object) -> int:
    if isinstance(content, dict):
        return sum(numbers_in(value) for value in content.values())
    if isinstance(content, list):
        return sum(numbers_in(value) for value in content)
    return int(isinstance(content, int | float))


def test_however_much_was_logged_the_numbers_of_a_page_are_bounded_and_the_loss_is_told() -> None:
    entries = [Entry(name="run")]
    short = chart_data([chart(3, points=900)], entries=entries)
    assert short.notes == ()
    assert short.content["grids"] == [list(range(1, 901))]
    long = chart_data([chart(40, points=1_000) for _ in range(20)], entries=entries)
    assert numbers_in(long.content) < 1.5 * MAX_NUMBERS
    assert len(long.notes) == 1
    assert "points are thinned" in long.notes[0]
    many = chart_data([chart(5_000, points=50), chart(2, points=50)], entries=entries)
    assert [len(kept.curves) for kept in many.charts] == [2]
    assert "1 of 2 charts are left out" in many.notes[0]


def test_of_many_layers_the_first_the_last_and_some_between_are_drawn() -> None:
    data = chart_data([chart(500, points=3, ramp=True)], entries=[Entry(name="run")])
    ramps = [curve.ramp for curve in data.charts[0].curves]
    assert len(ramps) == MOST_CURVES_A_CHART
    assert (ramps[0], ramps[-1]) == (0.0, 499 / 500)
    assert f"{MOST_CURVES_A_CHART} of 500 curves" in data.notes[0]


def test_another_axis_is_offered_where_all_runs_have_it() -> None:
    entries = [Entry(name="a", factors={"epoch": 0.01, "images": 64.0}), Entry(name="b", factors={"images": 128.0})]
    content = chart_data([chart(1, points=2)], entries=entries).content
    assert content["axes"] == [{"name": "images", "factors": [64.0, 128.0]}]
