"""The study of random labels: its verdict on made-up runs whose answer is known."""

from __future__ import annotations

import pytest

from made_runs import made_run
from pipeline.studies.random_labels import FITTED, GROUP, NEW, RANDOM, SHARE, SHARES, TRUE, groups, measure
from pipeline.studies.study import Scale, StudyRun, StudyRuns
from pipeline.studies.verdict import Verdict, verdict_of
from pipeline.sweeping.axes import points, read_swept
from pipeline.sweeping.many import resolved

# Accuracy on new images, of labels that were replaced by that share.
NEW_FRAC = {"0": 0.41, "0.25": 0.33, "0.5": 0.24, "0.75": 0.16, "1": 0.1}


def run_of(share: str, *, seed: int, fitted: float, new: float, epochs: int) -> StudyRun:
    """Return a run whose training accuracy passes 95 % in its epoch `epochs`."""
    accuracy = [0.5 if epoch < epochs else 0.97 for epoch in range(1, 9)]
    return made_run(
        GROUP,
        config={"seed": seed},
        options={"seed": str(seed), SHARE: share},
        summary={FITTED: fitted, NEW: new, "parameters": 1000, "data": {"train_samples": 2048}},
        series={
            "epoch": [float(epoch) for epoch in range(1, 9)],
            "train/top1_frac": accuracy,
            "train/loss": [1 / epoch for epoch in range(1, 9)],
        },
    )


def made_up(*, fitted: dict[str, float], new: dict[str, float]) -> StudyRuns:
    """Return runs of three seeds, a thousandth apart."""
    return StudyRuns(
        runs=[
            run_of(
                share,
                seed=seed,
                fitted=fitted.get(share, 1.0) - seed / 1000,
                new=new[share] + seed / 1000,
                epochs=2 if share == TRUE else 6,
            )
            for share in SHARES
            for seed in range(3)
        ]
    )


def test_a_network_that_fits_everything_and_predicts_at_chance_confirms_the_claim() -> None:
    outcome = measure(made_up(fitted={}, new=NEW_FRAC))
    assert verdict_of(outcome.checks) is Verdict.holds
    assert outcome.checks[0].estimate.value == pytest.approx(99.9)
    assert outcome.checks[3].estimate.value == pytest.approx(31)
    assert "3.0 times as many epochs" in outcome.notes[0]
    accuracies, losses = outcome.picture.panels
    assert accuracies.series[1].y == pytest.approx([41.1, 33.1, 24.1, 16.1, 10.1])
    assert [series.x for series in losses.series] == [list(range(1, 9))] * len(SHARES)


@pytest.mark.parametrize(
    ("fitted", "new", "failing"),
    [
        ({RANDOM: 0.7}, NEW_FRAC, [0]),
        ({TRUE: 0.9}, NEW_FRAC, [1]),
        ({}, {**NEW_FRAC, RANDOM: 0.25}, [2]),
        ({}, {**NEW_FRAC, TRUE: 0.12}, [3]),
        ({RANDOM: 0.7, TRUE: 0.7}, dict.fromkeys(SHARES, 0.3), [0, 1, 2, 3]),
    ],
)
def test_each_part_of_the_claim_can_fail(fitted: dict[str, float], new: dict[str, float], failing: list[int]) -> None:
    checks = measure(made_up(fitted=fitted, new=new)).checks
    assert [number for number, check in enumerate(checks) if not check.passes] == failing


def test_labels_that_were_not_learnt_in_time_are_told() -> None:
    runs = [
        run_of(share, seed=seed, fitted=0.9, new=0.2, epochs=2 if share == TRUE else 99)
        for share in SHARES
        for seed in (0, 1)
    ]
    outcome = measure(StudyRuns(runs=runs))
    assert outcome.rows[-1][3] == "not reached"
    assert "not learnt" in outcome.notes[0]


@pytest.mark.parametrize("scale", list(Scale))
def test_each_seed_has_its_own_images_and_noise(scale: Scale) -> None:
    (group,) = groups(scale, "0,1")
    swept = read_swept([*group.options])
    runs = resolved(swept.fixed, points(swept.axes))
    assert len(runs) == 2 * len(SHARES)
    for run in runs:
        data = run.identity["data"]
        assert data["subset_seed"] == data["label_noise_seed"] == int(run.options["seed"])
        assert data["label_noise"] == float(run.options[SHARE])
