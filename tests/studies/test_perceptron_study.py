"""The two units: regression solved, margins and mistakes against oracles; conclusions from tiny runs, both ways."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from made_runs import made_run
from pipeline.shards.errors import UserError
from pipeline.studies.measures.linear_units import (
    distance_by_epoch,
    find_margin,
    mistakes_bound,
    mistakes_by_epoch,
    solve_logistic,
    unit_of,
)
from pipeline.studies.perceptron import (
    FEW_IMAGES,
    INSEPARABLE,
    MANY_IMAGES,
    POINTS_APART,
    POINTS_MIXED,
    POINTS_SIGMOID,
    SEPARABLE,
    SIGMOID,
    groups,
    measure,
)
from pipeline.studies.study import Scale, StudyRun, StudyRuns
from pipeline.studies.verdict import Verdict, verdict_of
from pipeline.track.run_reading import Series, read_run
from runs import train_here
from tiny_data import prepare_here

TRAINED_ON = "train/top1_frac"


def clouds(num_samples: int, *, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return points around two middles."""
    labels_N = np.arange(num_samples) % 2
    return np.random.default_rng(5).normal(size=(num_samples, 2)) + distance * (labels_N[:, None] - 0.5), labels_N


@pytest.mark.parametrize("weight_decay", [0.01, 0.3])
def test_at_the_solved_unit_softmax_with_decay_has_no_gradient(weight_decay: float) -> None:
    pixels_ND, labels_N = clouds(50, distance=1.5)
    unit = torch.from_numpy(solve_logistic(pixels_ND, labels_N, weight_decay=weight_decay))
    weight = torch.stack([-unit[:-1] / 2, unit[:-1] / 2]).requires_grad_()
    bias = torch.stack([-unit[-1] / 2, unit[-1] / 2]).requires_grad_()
    logits = functional.linear(torch.from_numpy(pixels_ND), weight, bias)
    loss = functional.cross_entropy(logits, torch.from_numpy(labels_N)) + weight_decay / 2 * weight.square().sum()
    loss.backward()
    assert weight.grad is not None
    assert bias.grad is not None
    assert weight.grad.abs().max() < 1e-10
    assert bias.grad.abs().max() < 1e-10


def test_separable_data_without_decay_have_no_solution() -> None:
    pixels_ND, labels_N = clouds(20, distance=30.0)
    with pytest.raises((ValueError, np.linalg.LinAlgError)):
        solve_logistic(pixels_ND, labels_N, weight_decay=0.0)


def test_the_unit_is_the_model_of_two_outputs() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    pixels_ND = torch.randn(7, 3)
    unit = torch.from_numpy(unit_of(model)).float()
    shares = torch.sigmoid(pixels_ND @ unit[:-1] + unit[-1])
    assert torch.allclose(model(pixels_ND).softmax(dim=1)[:, 1], shares, atol=1e-6)


def test_the_margin_is_the_largest_over_all_directions() -> None:
    # One feature and the bias's: a plane's directions can be tried out.
    pixels_ND = np.array([[-2.0], [-0.7], [0.4], [1.5], [3.0]])
    labels_N = np.array([0, 0, 1, 1, 1])
    sides = np.c_[pixels_ND, np.ones(5)] * np.where(labels_N == 1, 1, -1)[:, None]
    angles = np.linspace(0, 2 * np.pi, 200_001)
    best = (sides @ [np.cos(angles), np.sin(angles)]).min(axis=0).max()
    assert find_margin(pixels_ND, labels_N) == pytest.approx(best, rel=2e-3)
    assert mistakes_bound(pixels_ND, labels_N) == pytest.approx(10 / best**2, rel=5e-3)


def test_what_no_line_separates_has_no_bound() -> None:
    pixels_ND = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert find_margin(pixels_ND, np.array([0, 0, 1, 1])) <= 1e-6
    overlapping, labels_N = clouds(60, distance=0.5)
    assert mistakes_bound(overlapping, labels_N) is None


def test_rosenblatts_rule_stays_within_the_bound() -> None:
    pixels_ND, labels_N = clouds(40, distance=6.0)
    bound = mistakes_bound(pixels_ND, labels_N)
    assert bound is not None
    weights, mistakes = np.zeros(3), 0
    for _ in range(200):
        for pixels_D, label in zip(pixels_ND, labels_N, strict=True):
            side = 1 if label else -1
            if side * (weights @ [*pixels_D, 1.0]) <= 0:
                weights += side * np.array([*pixels_D, 1.0])
                mistakes += 1
    assert 0 < mistakes <= bound


def test_mistakes_are_counted_from_what_rows_say_of_the_steps_since_the_one_before() -> None:
    run = made_run("x", config={"seed": 0}, series={"train/top1_frac": [0.0, 1.0, 1.0, 0.0]})
    assert mistakes_by_epoch(run) == [1, 0, 0, 1]


def part_of(num_samples: int, *, epochs: int) -> list[str]:
    rows = f"trainer.log_every_steps={num_samples}"
    return [f"data.train_samples={num_samples}", rows, f"trainer.max_epochs={epochs}"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[StudyRun]]:
    """Two seeds of each group, on fewer points and other images."""
    folder = tmp_path_factory.mktemp("units")
    half = ("source=points", "source.shape=halves", "source.samples=200", "source.val_samples=20")
    data = {
        "points-apart": prepare_here(folder / "apart", *half, "source.gap=0.2").root,
        "points-mixed": prepare_here(folder / "mixed", *half, "source.gap=-0.3").root,
        "pair-8": prepare_here(
            folder / "pair",
            *("source=synthetic", "source.samples=300", "source.val_samples=20", "source.classes=2"),
            *("layout.resolution=8", "layout.channels=grey"),
        ).root,
    }
    # Of the images few enough to be separable, and more.
    shorter = {
        POINTS_APART: part_of(50, epochs=6),
        POINTS_MIXED: part_of(50, epochs=2),
        FEW_IMAGES: part_of(20, epochs=30),
        MANY_IMAGES: part_of(300, epochs=1),
        POINTS_SIGMOID: ["trainer.max_epochs=2"],
        SIGMOID: [
            *("batch.size=full", "trainer.max_epochs=60", "schedule.final_frac=1"),
            *("optimizer.weight_decay=1", "optimizer.momentum=0.7"),
        ],
    }
    found: dict[str, list[StudyRun]] = {}
    for group, seed in itertools.product(groups(Scale.laptop, "0"), (0, 1)):
        run_dir = folder / f"{len(found)}-{seed}"
        train_here(data[group.data], run_dir, *group.options, *shorter[group.name], f"seed={seed}")
        run = StudyRun(group=group.name, options={"seed": str(seed)}, record=read_run(run_dir))
        found.setdefault(group.name, []).append(run)
    return found


def with_groups(finished: dict[str, list[StudyRun]], instead: dict[str, str]) -> StudyRuns:
    """Return all runs, with some groups' places taken by those of others."""
    return StudyRuns(
        runs=[
            StudyRun(group=name, options=run.options, record=run.record)
            for name in finished
            for run in finished[instead.get(name, name)]
        ]
    )


@pytest.mark.slow
def test_the_verdict_follows_the_runs(finished: dict[str, list[StudyRun]]) -> None:
    checks = measure(with_groups(finished, {})).checks
    assert checks[0].estimate.value < 1e-3
    assert [check.passes for check in checks[1:3]] == [True, True]
    # Of two seeds the interval is too wide for the others.
    assert checks[3].estimate.value > 1
    assert len(measure(with_groups(finished, {})).picture.panels) == 3


@pytest.mark.slow
def test_of_other_runs_none_of_it_holds(finished: dict[str, list[StudyRun]]) -> None:
    settled = dict(zip(INSEPARABLE, SEPARABLE, strict=True))
    unsettled = {
        run.record.folder: replace(
            run.record, series=run.record.series | {TRAINED_ON: Series(steps=[100_000, 100_050], values=[0.0, 0.9])}
        )
        for run in finished[POINTS_APART]
    }
    runs = with_groups(finished, settled | {SIGMOID: POINTS_SIGMOID}).runs
    changed = [
        replace(run, record=unsettled.get(run.record.folder, run.record)) if run.group in SEPARABLE else run
        for run in runs
    ]
    assert verdict_of(measure(StudyRuns(runs=changed)).checks) is Verdict.fails


@pytest.mark.slow
def test_a_set_that_is_not_separable_is_not_taken_for_one(finished: dict[str, list[StudyRun]]) -> None:
    with pytest.raises(UserError, match="points apart: no plane separates"):
        measure(with_groups(finished, {POINTS_APART: POINTS_MIXED}))


@pytest.mark.slow
def test_the_distance_is_that_of_the_checkpoints_from_the_solution(finished: dict[str, list[StudyRun]]) -> None:
    run = finished[SIGMOID][0]
    distances = distance_by_epoch(run)
    assert len(distances) == 61
    assert distances[0] > 0.5
    assert distances[-1] < 1e-3 < distances[5]
