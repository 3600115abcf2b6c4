"""The plot's series hold the numbers of the runs, against numpy; its caption tells n and seeds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.sweeping.sweep_plot import axis_of, caption_of, panels_of
from pipeline.sweeping.table import Result

RATES, MODELS, SEEDS = ["0.001", "0.01", "0.1"], ["mlp", "logistic_regression"], ["0", "1", "2"]
VALUES = np.random.default_rng(0).uniform(0.2, 0.6, size=(3, 2, 3))
RESULTS = [
    Result(
        number=number,
        options={"optimizer.rate": rate, "model": model, "seed": seed},
        summary={"val/top1_frac": VALUES.ravel()[number]},
    )
    for number, (rate, model, seed) in enumerate(itertools.product(RATES, MODELS, SEEDS))
]
FAILED = Result(number=18, options={"optimizer.rate": "9", "model": "mlp", "seed": "0"}, failure="error")


def test_two_lists_give_a_panel_each_with_means_and_ends_over_seeds() -> None:
    rate, model = panels_of([*RESULTS, FAILED], metric="val/top1_frac", higher=True)
    assert (rate.x.label, rate.x.log, rate.y.text) == ("optimizer.rate", True, "val/top1 (%)")
    assert [series.label for series in rate.series] == [f"model={name}" for name in MODELS]
    for index, series in enumerate(rate.series):
        assert list(series.x) == [0.001, 0.01, 0.1]
        np.testing.assert_allclose(series.y, 100 * VALUES[:, index].mean(axis=1))
        np.testing.assert_allclose(np.array(series.low), 100 * VALUES[:, index].min(axis=1))
        np.testing.assert_allclose(np.array(series.high), 100 * VALUES[:, index].max(axis=1))
        assert series.line
    assert model.x.ticks == {0.0: "mlp", 1.0: "logistic_regression"}
    assert model.ordered
    for index, series in enumerate(model.series):
        np.testing.assert_allclose(series.y, 100 * VALUES[index].mean(axis=1))
        assert np.abs(np.array(series.x) - [0, 1]).max() < 0.2
        assert not series.line


def test_drawn_values_show_every_run_and_lists_beside_them_their_best_mean() -> None:
    rate, model = panels_of(RESULTS, metric="val/top1_frac", higher=True, drawn=["optimizer.rate"])
    assert sorted(rate.series[0].y) == pytest.approx(sorted(100 * VALUES.ravel()))
    assert len(rate.series) == 1
    np.testing.assert_allclose(model.series[1].y, 100 * VALUES.mean(axis=2).max(axis=0))
    lowest = panels_of(RESULTS, metric="val/top1_frac", higher=False, drawn=["optimizer.rate"])[1]
    np.testing.assert_allclose(lowest.series[1].y, 100 * VALUES.mean(axis=2).min(axis=0))


def test_seeds_alone_are_shown_one_by_one_and_nothing_finished_is_no_plot() -> None:
    seeds = [Result(number=i, options={"seed": str(i)}, summary={"val/loss": float(i)}) for i in range(3)]
    (panel,) = panels_of(seeds, metric="val/loss", higher=False)
    assert list(panel.series[0].y) == [0.0, 1.0, 2.0]
    assert panels_of([FAILED], metric="val/loss", higher=False) == []


def test_the_caption_tells_n_seeds_spread_and_what_failed() -> None:
    caption = caption_of([*RESULTS, FAILED], metric="val/top1_frac", fixed=["batch.size=64"])
    for words in ("19 runs, 1 of them failed", "n = 3 seeds (0 to 2)", "from lowest to highest", "batch.size=64"):
        assert words in caption
    alone = [Result(number=0, options={"optimizer.rate": "1"}, summary={"val/top1_frac": 0.5})]
    assert "n = 1 seed (7) for each configuration, so no spread" in caption_of(
        alone, metric="val/top1_frac", fixed=["seed=7"]
    )


@pytest.mark.parametrize(
    ("values", "log"), [(["1", "2", "4"], False), (["1", "8"], True), (["0", "100"], False), (["-1", "1"], False)]
)
def test_numbers_that_span_much_are_laid_out_by_their_logarithm(values: list[str], log: bool) -> None:
    axis, places = axis_of("x", values)
    assert axis.log is log
    assert places == {value: float(value) for value in values}
