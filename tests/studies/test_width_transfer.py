"""The study of rates over widths: best rates of known parabolas, and conclusions in both directions."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from made_runs import made_run
from pipeline.studies.study import Scale, StudyRuns
from pipeline.studies.verdict import Verdict, verdict_of
from pipeline.studies.width_transfer import (
    BASE,
    LOSS,
    MUP,
    RATES,
    STANDARD,
    best_rate,
    factor_of,
    groups,
    losses_of,
    measure,
    transferred_losses,
)
from pipeline.track.plots import save_plot

WIDTHS = (64, 256, 1024)


def loss_at(rate: float, *, best: float, least: float) -> float:
    """A parabola of both logarithms."""
    return least * math.exp(0.1 * math.log(rate / best) ** 2)


def runs_told(exponents: dict[str, float]) -> StudyRuns:
    """Best rates of 0.008 at the base width, falling as width^exponent."""
    runs = []
    for kind in (BASE, STANDARD, MUP):
        for width in WIDTHS[:1] if kind == BASE else WIDTHS[1:]:
            for seed in range(3):
                for text in RATES:
                    rate = float(text)
                    best = 0.008 * (1 + seed / 100) * (width / 64) ** exponents.get(kind, 0.0)
                    loss = loss_at(rate, best=best, least=1.6 - 0.01 * math.log2(width))
                    config = {
                        "seed": seed,
                        "model": {"width": width, "depth": 2},
                        "optimizer": {"rate": rate},
                        "trainer": {"max_steps": 200, "log_every_steps": 50},
                    }
                    series = {LOSS: [2.3, loss]}
                    runs.append(made_run(kind, config=config, series=series))
    return StudyRuns(runs=runs)


@pytest.mark.parametrize("best", [0.0012, 0.008, 0.019])
def test_the_best_rate_is_where_a_parabola_has_its_lowest_point(best: float) -> None:
    rates = [float(rate) for rate in RATES]
    assert best_rate(rates, [loss_at(rate, best=best, least=1.5) for rate in rates]) == pytest.approx(best)


def test_at_the_ends_of_the_grid_and_on_level_ground_it_is_a_rate_of_the_grid() -> None:
    assert best_rate([1, 2, 4], [3.0, 2.0, 1.0]) == 4
    assert best_rate([1, 2, 4], [1.0, 2.0, 3.0]) == 1
    assert best_rate([1, 2, 4], [2.0, 2.0, 2.0]) == 1
    assert best_rate([1, 2, 4, 8], [3.0, 2.0, 2.0, 2.0]) == pytest.approx(2 * 2**0.5)


def test_a_factor_is_a_geometric_mean_and_its_interval_too() -> None:
    found = factor_of([8.0, 2.0], [1.0, 1.0])
    assert found.value == pytest.approx(4)
    assert math.log(found.high / found.value) == pytest.approx(math.log(found.value / found.low))
    # Student's 12.706 for two values, whose logarithms have a standard deviation of log(4) / sqrt(2).
    assert math.log(found.high / 4) == pytest.approx(12.706 * math.log(4) / 2)


def test_the_claim_holds_of_what_the_paper_tells_and_fails_of_its_opposite(tmp_path: Path) -> None:
    outcome = measure(runs_told({STANDARD: -0.7, MUP: 0.1}))
    assert verdict_of(outcome.checks) is Verdict.holds
    assert outcome.checks[0].estimate.value == pytest.approx(16**0.7)
    assert outcome.checks[1].estimate.value == pytest.approx(16**-0.1)
    save_plot(tmp_path / "figure.png", outcome.picture.panels, title="", caption="")
    assert verdict_of(measure(runs_told({STANDARD: 0.1, MUP: -0.7})).checks) is Verdict.fails
    assert any("end of the grid" in note for note in measure(runs_told({STANDARD: -1.5, MUP: 0.0})).notes)
    assert not any("end of the grid" in note for note in outcome.notes)


def test_a_rate_is_carried_over_from_the_narrowest_to_the_widest() -> None:
    runs = runs_told({STANDARD: -0.7, MUP: 0.0})
    found = losses_of(runs, STANDARD)
    assert list(found.losses) == list(WIDTHS)
    best = 0.008 * 16**-0.7
    expected = [loss_at(0.008, best=best * (1 + seed / 100), least=1.5) for seed in range(3)]
    assert transferred_losses(found, 64, 1024) == pytest.approx(expected)


@pytest.mark.parametrize("scale", Scale)
def test_both_parametrisations_have_one_net_at_the_base_width(scale: Scale) -> None:
    found = {group.name: group.options for group in groups(scale, "0,1")}
    base = next(option for option in found[MUP] if option.startswith("model.base_width=")).partition("=")[2]
    assert f"model.width={base}" in found[BASE]
    assert [option for option in found[MUP] if not option.startswith("model.base_width")] == list(found[STANDARD])
    assert base not in next(option for option in found[MUP] if option.startswith("model.width"))
