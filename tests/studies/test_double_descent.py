"""The study of double descent: its verdict on made-up runs whose answer is known, and features of a run's images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from made_runs import made_run
from pipeline.data.subset import subset_ids
from pipeline.shards.manifest import DataSet
from pipeline.studies import double_descent
from pipeline.studies.double_descent import (
    FITTED,
    HIDDEN,
    LINEAR,
    NETWORK,
    RATIOS,
    feature_fits,
    groups,
    measure,
)
from pipeline.studies.measures.random_features import FeatureFit, fit_features, read_images
from pipeline.studies.study import ACCURACY, Scale, StudyRun, StudyRuns
from pipeline.studies.verdict import Verdict, verdict_of
from pipeline.sweeping.axes import points, read_swept
from pipeline.sweeping.many import resolved
from tiny_data import prepare_here

WIDTHS = (1, 2, 9, 32, 256)
SEEDS = range(3)
# Test error in % of a network trained to the end, by width, and of random features, by ratio.
PEAK = {1: 22.0, 2: 24.0, 9: 34.0, 32: 28.0, 256: 23.0}
FALLING = {1: 34.0, 2: 30.0, 9: 28.0, 32: 25.0, 256: 23.0}


def features_peaking(ratio: float) -> float:
    return 0.9 - 0.1 * min(abs(ratio - 1), 2)


def features_falling(ratio: float) -> float:
    return 0.9 - 0.1 * ratio


@pytest.fixture
def made_fits(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[float], float]], None]:
    """Give every run made-up fits, a thousandth apart by seed."""

    def give(error_of: Callable[[float], float]) -> None:
        def fits(run: StudyRun) -> list[FeatureFit]:
            return [
                FeatureFit(train_error=max(0.0, 1 - ratio), test_error=error_of(ratio) + run.seed / 1000, norm=ratio)
                for ratio in RATIOS
            ]

        monkeypatch.setattr(double_descent, "feature_fits", fits)

    return give


def made_up(errors: dict[int, float], *, least: float = 20.0) -> StudyRuns:
    """Return runs whose best evaluation comes early, at an error of `least` % and some more with the width."""
    runs = []
    for seed in SEEDS:
        config = {"seed": seed, "data": {"train_samples": 600}}
        for width, error in errors.items():
            final = 1 - (error + seed / 10) / 100
            runs.append(
                made_run(
                    NETWORK,
                    config=config,
                    options={HIDDEN: f"[{width}]", "seed": str(seed)},
                    summary={ACCURACY: final, FITTED: min(1.0, 0.7 + width / 30), "parameters": 67 * width + 2},
                    series={ACCURACY: [0.5, 1 - least / 100, final - 0.001]},
                )
            )
        runs.append(
            made_run(
                LINEAR,
                config={"seed": seed, "data": {"train_samples": 1000}},
                summary={ACCURACY: 0.28},
                series={ACCURACY: [0.25, 0.3, 0.28]},
            )
        )
    return StudyRuns(runs=runs)


def test_a_peak_at_the_threshold_confirms_the_claim(made_fits: Callable[..., None]) -> None:
    made_fits(features_peaking)
    outcome = measure(made_up(PEAK))
    assert verdict_of(outcome.checks) is Verdict.holds
    # 67 * 9 + 2 = 605 weights are nearest to 600 images.
    assert [check.estimate.value for check in outcome.checks] == pytest.approx([11, 10, 0, 20, 9])
    network, features, _ = outcome.picture.panels
    assert network.series[0].y == pytest.approx([error + 0.1 for error in PEAK.values()])
    assert network.series[1].y == pytest.approx([20] * len(PEAK))
    assert [mark.x for mark in network.marks] == [9]
    assert features.series[0].x[RATIOS.index(1.0)] == 1000
    assert features.series[2].y == pytest.approx([70, 70])
    assert len(outcome.rows) == len(WIDTHS) + len(RATIOS) + 1


def test_errors_that_only_fall_do_not(made_fits: Callable[..., None]) -> None:
    made_fits(features_falling)
    checks = measure(made_up(FALLING)).checks
    assert [check.passes for check in checks] == [True, False, True, True, False]


def test_errors_that_rise_with_size_as_convention_has_it_do_not(made_fits: Callable[..., None]) -> None:
    made_fits(lambda ratio: 0.5 + 0.1 * ratio)
    checks = measure(made_up({1: 20.0, 2: 21.0, 9: 27.0, 32: 30.0, 256: 35.0})).checks
    assert [check.passes for check in checks] == [False, True, True, False, True]


def test_a_peak_that_early_stopping_leaves_is_seen(made_fits: Callable[..., None]) -> None:
    """Where no evaluation is better than the last, the early-stopped errors are those of the end."""
    made_fits(features_peaking)
    checks = measure(made_up(PEAK, least=90.0)).checks
    assert not checks[2].passes
    assert checks[2].estimate.value == pytest.approx(11)


def test_features_are_fitted_to_the_images_that_the_run_was_trained_on(tmp_path: Path) -> None:
    data: DataSet = prepare_here(tmp_path, "source=points", "source.samples=90", "source.val_samples=30")
    config = {
        "seed": 2,
        "data": {
            "path": str(data.root),
            "train_split": "train",
            "val_split": "val",
            "train_samples": 40,
            "subset_seed": 5,
        },
    }
    found = feature_fits(made_run(LINEAR, config=config))
    ids = subset_ids(num_samples=90, wanted=40, seed=5)
    new_images = read_images(data.root, "val", subset_ids(num_samples=30, wanted=30, seed=0))
    counts = [2, 4, 8, 16, 24, 32, 36, 40, 44, 48, 60, 80, 160]
    images = read_images(data.root, "train", ids)
    assert found == fit_features(images, new_images, counts=counts, num_classes=2, seed=2)


@pytest.mark.parametrize("scale", list(Scale))
def test_each_seed_has_its_own_images_and_noise_and_one_width_is_near_the_threshold(scale: Scale) -> None:
    widths = set()
    for group in groups(scale, "0,1"):
        swept = read_swept([*group.options])
        for run in resolved(swept.fixed, points(swept.axes)):
            data, seed = run.identity["data"], int(run.options["seed"])
            assert data["subset_seed"] == seed
            assert data["label_noise_seed"] == (seed if group.name == NETWORK else 0)
            if group.name == NETWORK:
                (width,) = run.identity["model"]["hidden"]
                widths.add((width, (67 * width + 2) / data["train_samples"]))
    assert min(abs(ratio - 1) for _, ratio in widths) < 0.02
    assert 2 in {width for width, _ in widths}
