"""Laws of scaling, from losses whose law is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.studies.measures.power_law import Curve, Losses, common_grid, fit_law

COMPUTE = np.geomspace(1e9, 1e12, 13)


def chinchilla(sizes: list[float], *, of_size: float, of_data: float, num: int = 40) -> list[Curve]:
    """Return curves of L = 1 + 40 P^-of_size + 400 D^-of_data, where D = C / 6P: of Hoffmann et al. 2022."""
    return [
        Curve(
            parameters=size,
            compute=np.geomspace(1e9, 1e12, num).tolist(),
            loss=(1 + 40 * size**-of_size + 400 * (np.geomspace(1e9, 1e12, num) / (6 * size)) ** -of_data).tolist(),
        )
        for size in sizes
    ]


def exact_best(compute: float, *, of_size: float, of_data: float) -> float:
    """Return where the derivative of that loss by the size is zero."""
    ratio = (of_size * 40) / (of_data * 400 * 6**of_data)
    return float((ratio * compute**of_data) ** (1 / (of_size + of_data)))


@pytest.mark.parametrize(("floor", "scale", "exponent"), [(1.2, 50.0, 0.2), (0.0, 8.0, 0.08), (0.5, 3e5, 0.7)])
def test_a_law_without_noise_is_found_again(floor: float, scale: float, exponent: float) -> None:
    law = fit_law(COMPUTE, floor + scale * COMPUTE**-exponent)
    assert law.exponent == pytest.approx(exponent, rel=0.03)
    assert law.floor == pytest.approx(floor, abs=0.03)
    assert law.at(1e13) == pytest.approx(floor + scale * 1e13**-exponent, rel=0.01)


def test_a_law_has_no_floor_under_zero_and_does_not_rise() -> None:
    falling = fit_law(COMPUTE, 5 - 0.1 * np.log(COMPUTE))  # bends the other way: a floor under zero would fit better
    assert falling.floor >= 0
    rising = fit_law(COMPUTE, 1 + 0.1 * np.log(COMPUTE))
    assert rising.scale == 0
    assert rising.at(1e15) == pytest.approx(float(np.mean(1 + 0.1 * np.log(COMPUTE))))


def test_points_that_are_not_finite_are_left_out_and_two_are_too_few() -> None:
    losses = 1.2 + 50 * COMPUTE**-0.2
    holed = losses.copy()
    holed[[2, 5]] = np.inf, np.nan
    assert fit_law(COMPUTE, holed).exponent == pytest.approx(0.2, rel=0.03)
    holed[2:] = np.nan
    with pytest.raises(ValueError, match="2 points: three wanted"):
        fit_law(COMPUTE, holed)


def test_curves_are_read_between_their_points_and_nowhere_else() -> None:
    early = Curve(parameters=1, compute=[1.0, 100.0], loss=[3.0, 1.0])
    late = Curve(parameters=2, compute=[10.0, 1000.0], loss=[1.5, 0.5])
    table = Losses.of([late, early], compute=common_grid([early, late], num=4))
    assert table.compute_C.tolist() == pytest.approx([1.0, 10.0, 100.0, 1000.0])
    assert table.parameters_S.tolist() == [1, 2]
    assert table.losses_SC == pytest.approx(np.array([[3, 2, 1, math.nan], [math.nan, 1.5, 1, 0.5]]), nan_ok=True)


@pytest.mark.parametrize(("of_size", "of_data"), [(0.65, 0.35), (0.4, 0.4), (0.35, 0.65)])
def test_best_sizes_and_their_losses_are_those_of_the_closed_form(of_size: float, of_data: float) -> None:
    middle = math.log(exact_best(3e10, of_size=of_size, of_data=of_data))
    sizes = [math.exp(middle + step) for step in range(-6, 7)]
    table = Losses.of(chinchilla(sizes, of_size=of_size, of_data=of_data), compute=COMPUTE)
    exact = [exact_best(compute, of_size=of_size, of_data=of_data) for compute in COMPUTE]
    assert np.log(table.best_sizes()) == pytest.approx(np.log(exact), abs=0.15)
    assert table.size_exponent() == pytest.approx(of_data / (of_size + of_data), abs=0.02)
    # The lowest loss of all sizes falls as compute^-(ab / (a + b)); Hoffmann et al., equation 4.
    assert table.law().exponent == pytest.approx(of_size * of_data / (of_size + of_data), rel=0.15)
    assert table.law(most_compute=1e11).at(1e12) == pytest.approx(float(table.best_losses()[-1]), rel=0.02)


def test_a_best_size_at_the_end_of_what_was_run_is_not_told() -> None:
    exact = exact_best(1e11, of_size=0.4, of_data=0.4)
    larger = chinchilla([exact * 3**step for step in (1, 2, 3, 4)], of_size=0.4, of_data=0.4)
    table = Losses.of(larger, compute=np.geomspace(1e9, 1e11, 5))
    assert np.isnan(table.best_sizes()).all()
    assert np.isnan(table.best_losses()).all()
    assert math.isnan(table.size_exponent())
    with pytest.raises(ValueError, match="0 points"):
        table.law()


def test_a_best_size_whose_neighbour_was_not_trained_so_is_not_told() -> None:
    sizes = [1e3, 1e4, 1e5]
    compute = np.array([1.0])
    for losses, known in (([2.0, 1.0, 2.0], True), ([math.nan, 1.0, 2.0], False), ([2.0, 1.0, math.nan], False)):
        rows = [(size, np.array([loss])) for size, loss in zip(sizes, losses, strict=True)]
        found = Losses.of_rows(rows, compute=compute).best_sizes()[0]
        assert math.isfinite(found) is known
    assert Losses.of_rows([(1.0, compute)] * 3, compute=compute).losses_SC.shape == (1, 1)


def test_seeds_of_a_size_are_averaged() -> None:
    seeds = [Curve(parameters=7, compute=[1.0, 2.0], loss=[high, 1.0]) for high in (3.0, 5.0)]
    table = Losses.of(seeds, compute=np.array([1.0, 2.0]))
    assert table.losses_SC.tolist() == [[4.0, 1.0]]
