"""The study of universal approximation: its verdict on errors whose law is known, and the fits that it draws."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.source_config import Function
from data_prep.sources.function import value
from pipeline.shards.manifest import read_data_set
from pipeline.studies.measures.function_fits import Fit, fit_of, samples_of
from pipeline.studies.study import Scale, StudyRun, StudyRuns
from pipeline.studies.universal_approximation import (
    FUNCTIONS,
    LINEAR,
    NOISY,
    NUMBERS,
    SAMPLES,
    WIDTH,
    WIDTHS,
    groups,
    measure,
)
from pipeline.studies.verdict import Verdict, verdict_of
from pipeline.sweeping.axes import points, read_swept
from pipeline.sweeping.many import resolved
from pipeline.track.run_reading import RunRecord, read_run
from runs import sample_ids, train_here, weights_of
from tiny_data import prepare_here, rows_of

pytestmark = pytest.mark.slow

TANH = [
    *(
        "objective=mse",
        "augment=none",
        "model=mlp",
        "model.activation=tanh",
        "model.init=kaiming",
        "model.base_width=8",
    ),
    *("optimizer=adamw", "optimizer.weight_decay=0", "optimizer.rate=0.2", "schedule=cosine", "batch.size=64"),
    *("evaluation.every_epochs=100", "track.gap=false"),
]
Law = Callable[[int], float]


@dataclasses.dataclass(frozen=True)
class Real:
    """Two runs: of 32 units on the function itself, and on 64 noisy samples of it."""

    near: RunRecord
    noisy: RunRecord


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    folder = tmp_path_factory.mktemp("functions")
    sizes = ["source=function", "source.samples=1500", "source.val_samples=1500"]
    clean = prepare_here(folder / "clean", *sizes).root
    noisy = prepare_here(folder / "noisy", *sizes, "source.noise=0.3").root
    train_here(clean, folder / "near", *TANH, "model.hidden=[32]", "trainer.max_epochs=60")
    few = ["model.hidden=[8]", "trainer.max_epochs=2", "data.train_samples=64", "data.subset_seed=3"]
    train_here(noisy, folder / "few", *TANH, *few, "log_sample_ids=true")
    return Real(near=read_run(folder / "near"), noisy=read_run(folder / "few"))


def made_up(real: Real, *, by_width: Law, by_samples: Law, linear: float) -> StudyRuns:
    """Return runs of three seeds, a hundredth apart, with root mean square errors of these laws."""

    def run(group: str, record: RunRecord, seed: int, options: dict[str, str], error: float) -> StudyRun:
        summary = {**record.summary, "val/mse": (error * (1 + 0.01 * seed)) ** 2}
        config = {**record.config, "seed": seed}
        named = dataclasses.replace(record, summary=summary, config=config)
        return StudyRun(group=group, options={"seed": str(seed), **options}, record=named)

    found = []
    for seed in range(3):
        for width in WIDTHS[Scale.laptop]:
            found += [run(name, real.near, seed, {WIDTH: f"[{width}]"}, by_width(width)) for name in FUNCTIONS]
        for number in NUMBERS[Scale.laptop]:
            found.append(run(NOISY, real.noisy, seed, {SAMPLES: str(number)}, by_samples(number)))
        found.append(run(LINEAR, real.near, seed, {}, linear))
    return StudyRuns(runs=found)


def test_errors_that_fall_as_the_theory_says_confirm_the_claim(real: Real) -> None:
    runs = made_up(real, by_width=lambda n: 0.3 * n**-0.75, by_samples=lambda n: n**-0.5, linear=0.3)
    outcome = measure(runs)
    assert verdict_of(outcome.checks) is Verdict.holds
    waves, hills, farthest, linear, samples = (check.estimate for check in outcome.checks)
    assert waves.value == hills.value == pytest.approx(-0.75)
    assert samples.value == pytest.approx(-0.5)
    assert farthest.value == pytest.approx(fit_of(runs.of("waves")[0]).farthest)
    assert linear.value == pytest.approx(128**0.75)
    assert f"{128**0.75:.0f} times for waves" in outcome.notes[0]
    # Errors of n^-1/2 from noise of 0.3 are those of 1 / 0.09 = 11 free numbers, whatever n is.
    assert "k is 11 at 512 samples and 11 at 4,096" in outcome.notes[1]
    assert "does not grow" in outcome.notes[1]
    assert [row[0] for row in outcome.rows].count("noisy waves") == 7
    _, by_width, _, by_samples = outcome.picture.panels
    assert by_width.series[0].y == pytest.approx([0.3 * n**-0.75 * 1.01 for n in by_width.series[0].x])
    assert by_samples.series[0].x == NUMBERS[Scale.laptop]


@pytest.mark.parametrize(
    ("by_width", "by_samples", "linear", "failing"),
    [
        (lambda n: 0.3 * n**-0.4, lambda n: n**-0.5, 0.9, [0, 1]),
        (lambda n: 0.3 * n**-0.75, lambda n: n**-0.5, 0.05, [3]),
        (lambda n: 0.3 * n**-0.75, lambda n: n**-0.1, 0.3, [4]),
        (lambda n: 0.3 * n**-0.75, lambda n: n**-1.0, 0.3, [4]),
    ],
)
def test_each_part_of_the_claim_can_fail(
    real: Real, by_width: Law, by_samples: Law, linear: float, failing: list[int]
) -> None:
    outcome = measure(made_up(real, by_width=by_width, by_samples=by_samples, linear=linear))
    checks = outcome.checks
    assert ("more slowly" in outcome.notes[1]) == (by_samples(4) > 0.5)
    assert [number for number, check in enumerate(checks) if not check.passes] == failing


def test_a_fit_is_the_models_answer_beside_the_function(real: Real) -> None:
    run = made_up(real, by_width=float, by_samples=float, linear=1.0).of("waves")[0]
    fit = fit_of(run)
    assert fit.x_N.tolist() == [level / 255 for level in range(256)]
    assert fit.targets_N == pytest.approx(value(Function.waves, fit.x_N[:, None]), abs=1e-6)
    # The network by hand: the output is scaled by base_width / width.
    weights = {name.removeprefix("model."): tensor.double() for name, tensor in weights_of(real.near.folder).items()}
    first, bias, second, last_bias = (tensor.numpy() for tensor in weights.values())
    levels = np.arange(256.0)
    data = read_data_set(Path(real.near.config["data"]["path"]))
    assert data.statistics is not None
    (mean,), (std,) = data.statistics.mean, data.statistics.std
    hidden = np.tanh(((levels - mean) / std)[:, None] @ first.T + bias)
    by_hand = hidden @ second[0] * 8 / 32 + last_bias
    assert fit.outputs_N == pytest.approx(by_hand, abs=1e-4)
    assert fit.farthest == pytest.approx(np.abs(by_hand - fit.targets_N).max(), abs=1e-4)
    assert math.sqrt(((fit.outputs_N - fit.targets_N) ** 2).mean()) < 0.1


def test_the_samples_drawn_are_those_that_were_trained_on(real: Real) -> None:
    run = made_up(real, by_width=float, by_samples=float, linear=1.0).of(NOISY)[0]
    levels_N, targets_N = samples_of(run, "train")
    ids = sorted({one for _, step_ids in sample_ids(real.noisy.folder) for one in step_ids})
    assert len(levels_N) == len(ids) == 64
    stored = [row for _, row in rows_of(read_data_set(Path(real.noisy.config["data"]["path"])), "train")]
    assert targets_N.tolist() == [float(stored[one]["targets"][0]) for one in ids]
    off = targets_N - value(Function.waves, levels_N[:, None] / 255)
    assert 0.2 < off.std() < 0.4  # the noise has 0.3


def test_the_farthest_point_counts_and_not_the_mean() -> None:
    fit = Fit(x_N=np.arange(4.0), targets_N=np.zeros(4), outputs_N=np.array([0.0, 0.1, -0.5, 0.2]))
    assert fit.farthest == 0.5


@pytest.mark.parametrize("scale", list(Scale))
def test_groups_are_valid_runs_in_which_each_seed_has_its_own_samples(scale: Scale) -> None:
    found = {}
    for group in groups(scale, "0,1"):
        swept = read_swept([*group.options])
        found[group.name] = resolved(swept.fixed, points(swept.axes))
    assert {name: len(runs) for name, runs in found.items()} == {
        **{name: 2 * len(WIDTHS[scale]) for name in FUNCTIONS},
        LINEAR: 2,
        NOISY: 2 * len(NUMBERS[scale]),
    }
    for run in found[NOISY]:
        assert run.identity["data"]["subset_seed"] == int(run.options["seed"])
    assert all(run.identity["data"]["train_samples"] is None for name in FUNCTIONS for run in found[name])
