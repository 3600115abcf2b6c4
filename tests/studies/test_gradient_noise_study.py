"""Noise in the gradient: all batches of a few samples, and conclusions from laws that hold and that do not."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.order import FullOrder
from pipeline.studies.gradient_noise import conclude, groups
from pipeline.studies.measures.gradient_batches import (
    BatchErrors,
    ExactNoise,
    batch_errors,
    draw_as_trained,
    draw_independent,
    exact_noise,
    left_to_draw,
    sample_gradients,
)
from pipeline.studies.measures.gradient_run import AS_TRAINED, INDEPENDENT, MOMENTS, Measured, Moment, measure_run
from pipeline.studies.study import Scale, StudyRun
from pipeline.studies.verdict import Verdict, verdict_of
from pipeline.track.run_reading import read_run
from pipeline.training.objective import cross_entropy
from runs import train_here
from tiny_data import prepare_here

SIZES = (1, 4, 16, 64)
NUM_SAMPLES = 200


def random_gradients(num_samples: int, num_parameters: int = 7) -> torch.Tensor:
    return torch.randn(num_samples, num_parameters, generator=torch.Generator().manual_seed(3)) + 0.5


def noise_of(gradients_NP: torch.Tensor) -> ExactNoise:
    """Return the definition: squared length of the mean, and mean squared distance from it."""
    mean_P = gradients_NP.double().mean(dim=0)
    trace = float((gradients_NP - mean_P).square().sum(dim=1).mean())
    return ExactNoise(signal_sq=float(mean_P.square().sum()), trace=trace)


def test_gradients_of_samples_and_their_noise_are_autograds() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.LayerNorm(5), torch.nn.Linear(5, 3))
    pixels_ND, labels_N = torch.randn(9, 6), torch.arange(9) % 3
    rows = []
    for pixels_D, label in zip(pixels_ND, labels_N, strict=True):
        loss = cross_entropy(model(pixels_D[None]), label[None]).sum()
        rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, [*model.parameters()])]))
    expected_NP = torch.stack(rows)
    assert torch.allclose(sample_gradients(model, pixels_ND, labels_N), expected_NP, atol=1e-6)
    exact, wanted = exact_noise(model, pixels_ND, labels_N), noise_of(expected_NP)
    assert exact.trace == pytest.approx(wanted.trace, rel=1e-4)
    assert exact.signal_sq == pytest.approx(wanted.signal_sq, rel=1e-4)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_the_error_of_all_batches_that_can_be_drawn_is_the_laws(size: int) -> None:
    gradients_NP = random_gradients(6)
    trace = noise_of(gradients_NP).trace
    independent = torch.tensor([*itertools.product(range(6), repeat=size)]) if size < 6 else None
    without = torch.tensor([*itertools.combinations(range(6), size)] * 2)
    if independent is not None:
        assert batch_errors(gradients_NP, independent).error_sq == pytest.approx(trace / size, rel=1e-4)
    errors = batch_errors(gradients_NP, without)
    assert errors.error_sq == pytest.approx(trace / size * left_to_draw(size, 6), rel=1e-4, abs=1e-10)
    mean_P = gradients_NP.mean(dim=0)
    cosines = [
        float(torch.cosine_similarity(gradients_NP[list(batch)].mean(dim=0), mean_P, dim=0))
        for batch in without.tolist()
    ]
    assert errors.cosine == pytest.approx(np.mean(cosines), rel=1e-4)


def test_a_mean_that_is_not_zero_is_seen() -> None:
    gradients_NP = random_gradients(NUM_SAMPLES, num_parameters=4000)
    drawn = draw_independent(num_samples=NUM_SAMPLES, size=16, num_draws=100, seed=0)
    fair, unfair = batch_errors(gradients_NP, drawn), batch_errors(gradients_NP, drawn % 20)
    assert 0.03 < fair.beyond_frac < 0.08
    assert unfair.beyond_frac > 0.6


def test_what_is_the_same_in_all_batches_is_no_error() -> None:
    gradients_NP = torch.full((NUM_SAMPLES, 3), 0.1)
    drawn = draw_independent(num_samples=NUM_SAMPLES, size=48, num_draws=20, seed=0)
    assert batch_errors(gradients_NP, drawn).beyond_frac == 0


def test_what_samples_tell_of_their_population_is_without_bias() -> None:
    population_NP = random_gradients(3)
    truth = noise_of(population_NP)
    for num_drawn in (2, 3, 4):
        told = [
            noise_of(population_NP[list(drawn)]).of_population(num_drawn)
            for drawn in itertools.product(range(3), repeat=num_drawn)
        ]
        assert np.mean([noise.trace for noise in told]) == pytest.approx(truth.trace, rel=1e-4)
        assert np.mean([noise.signal_sq for noise in told]) == pytest.approx(truth.signal_sq, rel=1e-4)


def test_batches_as_trained_are_first_ones_of_trainings_own_epochs() -> None:
    drawn = draw_as_trained(num_samples=50, size=20, num_draws=30, seed=4)
    order = FullOrder(num_samples=50, batch_size=20, seed=4)
    assert drawn[7].tolist() == order.global_batch(epoch=7, step=0).sample_ids.tolist()
    assert all(len(set(row)) == 20 for row in drawn.tolist())
    assert drawn.unique().numel() == 50


def made(seed: int, *, power: float = -1.0, beyond: float = 0.05, own: float = 1.0, turned: float = 0.0) -> Measured:
    """Make a run whose errors follow a power of the batch, and whose own noise scale is so many times the exact one."""
    exact = ExactNoise(signal_sq=0.5, trace=100.0)
    wobble = 1 + 0.01 * seed

    def errors(size: int, *, left: float) -> BatchErrors:
        return BatchErrors(
            error_sq=100.0 * size**power * left * wobble,
            cosine=exact.cosine(left / size) - turned,
            beyond_frac=beyond + 0.001 * seed,
        )

    independent = {size: errors(size, left=1.0) for size in (*SIZES, NUM_SAMPLES)}
    as_trained = {size: errors(size, left=left_to_draw(size, NUM_SAMPLES)) for size in SIZES}
    scale = own * wobble * exact.of_population(NUM_SAMPLES).images
    return Measured(
        seed=seed,
        num_samples=NUM_SAMPLES,
        moments={
            name: Moment(exact=exact, drawn={INDEPENDENT: independent, AS_TRAINED: as_trained}) for name in MOMENTS
        },
        exact=dict.fromkeys((0, 10, 20), exact),
        steps=[10, 20, 30],
        scales=[None, scale, None],
        low=[0.0, scale / 2, 1.0],
        high=[None, 2 * scale, None],
    )


def passes(runs: Sequence[Measured]) -> list[bool]:
    return [check.passes for check in conclude(runs).checks]


def test_the_verdict_follows_the_laws() -> None:
    outcome = conclude([made(seed) for seed in range(3)])
    assert verdict_of(outcome.checks) is Verdict.holds
    assert outcome.checks[0].estimate.value == pytest.approx(-1, abs=1e-6)
    assert passes([made(seed, power=-0.8) for seed in range(3)])[:3] == [False, False, True]
    assert passes([made(seed, beyond=0.2) for seed in range(3)]) == [True, True, False, True, True]
    assert passes([made(seed, turned=0.2) for seed in range(3)]) == [True, True, True, False, True]
    assert passes([made(seed, own=1.5) for seed in range(3)]) == [True, True, True, True, False]
    wrong = [made(seed, power=-0.5, beyond=0.2, turned=0.2, own=0.5) for seed in range(3)]
    assert verdict_of(conclude(wrong).checks) is Verdict.fails


@pytest.mark.slow
def test_a_run_is_measured_at_its_start_its_middle_and_its_end(tmp_path: Path) -> None:
    data = prepare_here(tmp_path / "data", "source=synthetic", "source.samples=80", "layout.resolution=4")
    options = [option for option in groups(Scale.laptop, "0")[0].options if not option.startswith("data.")]
    train_here(data.root, tmp_path / "run", *options, "batch.size=8", "track.noise_scale_every_steps=1")
    run = StudyRun(group="images", options={}, record=read_run(tmp_path / "run"))
    measured = measure_run(run)
    assert [*measured.exact] == [0, *range(10, 121, 10)]
    assert [measured.moments[name].exact for name in MOMENTS] == [measured.exact[step] for step in (0, 60, 120)]
    end = measured.moments["end"].drawn
    assert [*end[INDEPENDENT]] == [1, 4, 16, 64, 80]
    assert [*end[AS_TRAINED]] == [1, 4, 16, 64]
    # Of 128 draws the error is known to a few percent.
    assert measured.error_shares(AS_TRAINED)[16] == pytest.approx(left_to_draw(16, 80) / 16, rel=0.3)
    assert measured.steps[-1] == 120
    assert len(conclude([measured]).picture.panels) == 3
