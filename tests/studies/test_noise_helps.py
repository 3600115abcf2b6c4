"""The study of noise: what it concludes from numbers that are known, and what it reads from a run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pipeline.shards.errors import UserError
from pipeline.studies.measures import equal_loss
from pipeline.studies.measures.curvature import num_different_units
from pipeline.studies.measures.equal_loss import AtLoss, at_losses
from pipeline.studies.noise_helps import (
    FULL,
    LARGE,
    MINI,
    NOISE,
    REST,
    REST_FULL,
    REST_MINI,
    REST_NOISE,
    SMALL,
    checks_of_batches,
    checks_of_noise,
    follow_up,
    num_saddles,
    weights_of,
)
from pipeline.studies.panels.noise_helps import loss_series, neurons
from pipeline.studies.study import ACCURACY, Scale, StudyRun, StudyRuns
from pipeline.sweeping.axes import points, read_swept
from pipeline.sweeping.many import resolved
from pipeline.track.run_reading import RunRecord, Series, read_run
from runs import train_here
from tiny_data import prepare_here


def made_up(
    group: str = "any",
    *,
    seed: int = 0,
    accuracy: float = 1.0,
    gradient: float = 1e-3,
    series: dict[str, Series] | None = None,
) -> StudyRun:
    """Return a run that never was."""
    record = RunRecord(
        folder=Path(f"runs/{seed}"),
        name=str(seed),
        config={"seed": seed},
        facts={},
        summary={ACCURACY: accuracy, "grad/norm": gradient, "steps": 100},
        series=series or {},
        media=[],
    )
    return StudyRun(group=group, options={}, record=record)


def along(*, accuracy: float, sharpness: float) -> list[AtLoss]:
    return [AtLoss(loss=0.2, accuracy=accuracy, sharpness=sharpness)]


def test_checks_pass_where_noise_helps_and_fail_where_it_does_not() -> None:
    low, high = [50.0, 52.0, 51.0], [99.0, 100.0, 100.0]
    helps = {FULL: low, MINI: low, NOISE: high, REST_FULL: low, REST_MINI: high, REST_NOISE: high}
    assert [check.passes for check in checks_of_noise(helps, [1.0, 1.0, 1.0])] == [True] * 5
    swapped = {FULL: high, MINI: high, NOISE: low, REST_FULL: high, REST_MINI: low, REST_NOISE: low}
    assert [check.passes for check in checks_of_noise(swapped, [32.0, 30.0, 31.0])] == [False] * 5


def test_a_place_is_a_saddle_by_its_own_curvatures() -> None:
    assert num_saddles([[-0.009, 0.1, 1.0], [0.0, 0.5]]) == 0
    # Of a flat place a small curvature downwards counts, however steep another one is.
    assert num_saddles([[-0.009, 0.1, 0.2], [0.0, 8.0]]) == 1


def test_small_batches_are_compared_seed_by_seed_with_the_whole_set() -> None:
    flat = [along(accuracy=35.0 + seed, sharpness=2.0 + seed) for seed in range(3)]
    sharp = [along(accuracy=34.0 + seed, sharpness=8.0 + 4 * seed) for seed in range(3)]
    sharper, better = checks_of_batches({SMALL: flat, LARGE: sharp})
    # 8/2, 12/3, 16/4: four times as sharp for each seed.
    assert sharper.estimate.value == pytest.approx(2.0)
    assert sharper.passes
    assert better.estimate.value == pytest.approx(1.0)
    assert better.passes
    assert not any(check.passes for check in checks_of_batches({SMALL: sharp, LARGE: flat}))


def test_only_runs_at_rest_in_the_wrong_place_go_on_in_three_ways() -> None:
    ends = [(1.0, 1e-3), (0.84, 1e-3), (0.999, 1e-3), (0.5, 1e-9), (0.84, 0.2)]  # the last one still moves
    finished = StudyRuns(
        runs=[
            made_up(REST, seed=seed, accuracy=accuracy, gradient=gradient)
            for seed, (accuracy, gradient) in enumerate(ends)
        ]
    )
    found = follow_up(finished, Scale.laptop, "0,1")
    assert [group.name for group in found] == [REST_FULL, REST_MINI, REST_NOISE] * 2
    for group, seed in zip(found, (1, 1, 1, 3, 3, 3), strict=True):
        assert f"init.run=runs/{seed}" in group.options
        swept = read_swept(["data.path=data/rings", *group.options])
        (run,) = resolved(swept.fixed, points(swept.axes))
        assert run.identity["seed"] == seed
    with pytest.raises(UserError, match="no run came to rest"):
        follow_up(StudyRuns(runs=[made_up(REST)]), Scale.laptop, "0,1")


def constant(wanted: float) -> nn.Linear:
    """Return a model whose loss on samples at 0 of class 0 is `wanted`: log(1 + exp(-bias))."""
    model = nn.Linear(1, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    with torch.no_grad():
        model.bias[0] = -math.log(math.expm1(wanted))
    return model


def test_a_run_is_looked_at_where_its_loss_first_comes_down(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {0: 0.1, 10: 1.5, 20: 0.9, 30: 0.4, 40: 0.6, 50: 0.3}

    def models(_: object) -> Iterator[tuple[int, nn.Module]]:
        for step, loss in losses.items():
            yield step, constant(loss)

    monkeypatch.setattr(equal_loss, "open_trained", lambda folder: SimpleNamespace(folder=folder))
    monkeypatch.setattr(equal_loss, "training_samples", lambda _: (torch.zeros(5, 1), torch.zeros(5, dtype=torch.long)))
    monkeypatch.setattr(equal_loss, "models_along", models)
    # The start was not evaluated.
    steps = [10, 20, 30, 40, 50]
    run = made_up(series={ACCURACY: Series(steps=steps, values=[step / 100 for step in steps])})
    found = at_losses(run, (1.0, 0.5, 0.45))
    assert [one.accuracy for one in found] == pytest.approx([20.0, 30.0, 30.0])
    assert [one.loss for one in found] == pytest.approx([0.9, 0.4, 0.4], rel=1e-5)
    # Of two logits the Hessian over the biases is p (1 - p) [[1, -1], [-1, 1]].
    shares = [math.exp(-loss) for loss in (0.9, 0.4, 0.4)]
    assert [one.sharpness for one in found] == pytest.approx([2 * p * (1 - p) for p in shares], rel=1e-3)
    with pytest.raises(UserError, match=r"never falls to 0\.2"):
        at_losses(run, (1.0, 0.2))


def test_a_curve_is_the_mean_of_runs_where_all_of_them_have_a_row() -> None:
    first = made_up(series={"train/loss": Series(steps=[10, 20, 30], values=[3.0, 2.0, 1.0])})
    second = made_up(series={"train/loss": Series(steps=[10, 15, 30], values=[5.0, 9.0, 2.0])})
    series = loss_series([first, second], label="both", first_step=100)
    assert list(series.x) == [110, 130]
    assert list(series.y) == [4.0, 1.5]
    assert (series.low, series.high) == ([3.0, 1.0], [5.0, 2.0])


@pytest.mark.slow
def test_weights_and_losses_are_those_of_the_run(tmp_path: Path) -> None:
    rings = prepare_here(tmp_path / "rings", "source=points", "source.samples=400", "source.val_samples=100")
    options = (
        *("model=mlp", "model.hidden=[8]", "model.identical_units=true", "model.activation=tanh", "augment=none"),
        *("optimizer=sgd", "optimizer.rate=0.1", "optimizer.momentum=0", "schedule=constant", "batch.size=full"),
        *("trainer.max_epochs=12", "trainer.log_every_steps=1", "checkpoint.keep=100"),
    )
    train_here(rings.root, tmp_path / "run", *options)
    run = StudyRun(group="any", options={}, record=read_run(tmp_path / "run"))
    # The row of the eleventh update is the loss of the weights after ten.
    rows = run.record.series["train/loss"]
    before = dict(zip(rows.steps, rows.values, strict=True))[11]
    assert before is not None
    (found,) = at_losses(run, [before * 1.00001])
    assert found.loss == pytest.approx(before, rel=1e-4)
    evaluated = run.record.series[ACCURACY]
    assert found.accuracy == 100 * (dict(zip(evaluated.steps, evaluated.values, strict=True))[10] or 0.0)
    model, pixels_ND, labels_N = weights_of(run)
    assert pixels_ND.shape == (400, 2)
    assert labels_N.bincount().tolist() == [200, 200]
    assert num_different_units(model) == 1
    (series,) = neurons({"alike": run}, title="").series
    assert len(series.x) == 8
    assert max(series.x) - min(series.x) < 1e-6
