"""Mixup: its distribution against closed forms, its blends against dense targets, and the same for any ranks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.build import build_module
from pipeline.build_optimizer import plan_steps
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS, TrainConfig
from pipeline.data.loader import Batch, BatchLoader
from pipeline.data.mixup import BetaQuantiles, mix_neighbours, of_neighbours, own_shares
from pipeline.data.order import FullOrder
from pipeline.data.packed import PackedReader
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.training.objective import binary_cross_entropy, cross_entropy, mean_squared_error
from runs import SMALL, assert_equal_weights, metric_rows, run_ranks, train_here, weights_of

MIXED = ["augment=flip_crop", "augment.mixup_alpha=0.8"]
ON_GRID = torch.linspace(1e-6, 1 - 1e-6, 4_001, dtype=torch.float64)


@pytest.mark.parametrize(
    ("alpha", "quantile"),
    [
        (1.0, lambda u: u),
        (0.5, lambda u: torch.sin(math.pi / 2 * u).square()),
        # Beta(2, 2): F(x) = 3x^2 - 2x^3.
        (2.0, lambda u: 0.5 - torch.sin(torch.asin(1 - 2 * u) / 3)),
    ],
)
def test_quantiles_are_those_of_the_closed_forms(alpha: float, quantile) -> None:
    torch.testing.assert_close(BetaQuantiles(alpha)(ON_GRID), quantile(ON_GRID), rtol=0, atol=2e-6)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.8, 1.5, 32.0])
def test_shares_are_distributed_as_numpys_beta(alpha: float) -> None:
    num = 40_000
    found = own_shares(BetaQuantiles(alpha), torch.arange(num), seed=1, epoch=2).double().numpy()
    wanted = np.random.default_rng(0).beta(alpha, alpha, num).astype(np.float32).astype(np.float64)
    places = np.concatenate([found, wanted])
    shares = [np.searchsorted(np.sort(values), places, side="right") / num for values in (found, wanted)]
    # Kolmogorov and Smirnov: two samples of one distribution are farther apart once in 5 million times.
    assert np.abs(shares[0] - shares[1]).max() < 2.85 * math.sqrt(2 / num)
    assert abs(found.mean() - 0.5) < 5 * found.std() / math.sqrt(num)
    assert found.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_neighbours_shares_are_unrelated_and_a_share_is_its_positions_alone() -> None:
    quantiles = BetaQuantiles(0.8)
    shares = own_shares(quantiles, torch.arange(20_000), seed=3, epoch=0)
    first, second = shares.view(-1, 2).T
    assert abs(np.corrcoef(first.numpy(), second.numpy())[0, 1]) < 5 / math.sqrt(10_000)
    assert torch.equal(own_shares(quantiles, torch.arange(400, 500), seed=3, epoch=0), shares[400:500])
    for other in ({"seed": 4, "epoch": 0}, {"seed": 3, "epoch": 1}):
        assert (own_shares(quantiles, torch.arange(20_000), **other) != shares).float().mean() > 0.99


def test_rows_are_blended_with_their_neighbours() -> None:
    rng = np.random.default_rng(0)
    values, own = rng.normal(size=(10, 6)).astype(np.float32), rng.random(10).astype(np.float32)
    expected = np.array([own[i] * values[i] + (1 - own[i]) * values[i ^ 1] for i in range(10)])
    assert of_neighbours(torch.arange(10)).tolist() == [1, 0, 3, 2, 5, 4, 7, 6, 9, 8]
    mixed = torch.from_numpy(values.copy())
    assert mix_neighbours(mixed, torch.from_numpy(own)) is mixed
    torch.testing.assert_close(mixed, torch.from_numpy(expected))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_every_objective_is_that_of_the_blended_targets(label_smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((8, 5), generator=generator, dtype=torch.float32, requires_grad=True)
    labels, own = torch.tensor([0, 1, 2, 3, 4, 4, 1, 0]), torch.rand(8, generator=generator)
    one_hot = torch.nn.functional.one_hot(labels, 5).float()
    targets = own[:, None] * one_hot + (1 - own[:, None]) * one_hot[[1, 0, 3, 2, 5, 4, 7, 6]]
    smoothed = (1 - label_smoothing) * targets + label_smoothing / 5
    cases = [
        (
            cross_entropy(logits, labels, own_B=own, label_smoothing=label_smoothing),
            -(smoothed * logits.log_softmax(1)).sum(1),
        ),
        (mean_squared_error(logits, labels, own_B=own), (logits - targets).square().mean(1)),
        (
            binary_cross_entropy(logits, labels, own_B=own),
            -(targets * logits.sigmoid().log() + (1 - targets) * (1 - logits.sigmoid()).log()).mean(1),
        ),
    ]
    for found, expected in cases:
        torch.testing.assert_close(found, expected)
        found_gradient, expected_gradient = (
            torch.autograd.grad(v.sum(), logits, retain_graph=True) for v in (found, expected)
        )
        torch.testing.assert_close(found_gradient, expected_gradient)


def test_several_labels_are_blended_each() -> None:
    labels, own = torch.tensor([[0, 2], [1, -1], [-1, -1], [0, 1]]), torch.tensor([0.25, 1.0, 0.5, 0.0])
    targets = torch.tensor([[0.25, 0.75, 0.25], [0, 1, 0], [0.5, 0.5, 0], [0, 0, 0]])
    logits = torch.linspace(-2, 2, 12).view(4, 3)
    expected = -(targets * logits.sigmoid().log() + (1 - targets) * (-logits).sigmoid().log()).mean(1)
    torch.testing.assert_close(binary_cross_entropy(logits, labels, own_B=own), expected)


def fed(data: DataSet, *options: str, rank: int, world_size: int, micro: int | None = None) -> list[torch.Tensor]:
    """What a rank's model is given in the first steps, each step with its losses' own shares as a last column."""
    config: TrainConfig = compose("train", TRAIN_SCHEMAS, [*SMALL, *options])
    reader = PackedReader(data, "train")
    plan = plan_steps(config, steps_per_epoch=4, micro_batches=1)
    module = build_module(config, data, plan, image_shape=reader.image_shape)
    order = FullOrder(num_samples=reader.num_samples, batch_size=24, seed=5)
    loader = BatchLoader(reader, order, rank=rank, world_size=world_size, micro_slots=micro)
    steps: dict[int, list[torch.Tensor]] = {}
    batch: Batch
    for batch in loader:
        pixels, own = module.inputs_of(batch)
        assert own is not None
        steps.setdefault(batch.step, []).append(torch.cat([pixels, own[:, None]], dim=1))
    loader.close()
    reader.close()
    return [torch.cat(parts) for _, parts in sorted(steps.items())]


@pytest.mark.parametrize("options", [MIXED, ["augment=resized_crop", "augment.mixup_alpha=0.8"]])
def test_blends_are_bit_equal_for_every_number_of_ranks_and_micro_batches(
    synthetic: DataSet, options: list[str]
) -> None:
    whole = fed(synthetic, *options, rank=0, world_size=1)
    assert len(whole) == 4
    for world_size, micro in ((1, 6), (2, None), (4, None), (4, 2), (12, None)):
        parts = [fed(synthetic, *options, rank=rank, world_size=world_size, micro=micro) for rank in range(world_size)]
        for step, expected in enumerate(whole):
            assert torch.equal(torch.cat([part[step] for part in parts]), expected)


@pytest.mark.parametrize("options", [["batch.size=15"], ["batch.size=12", "batch.micro_size=3"], ["batch.size=1"]])
def test_pairs_that_would_be_cut_are_refused_in_one_line(
    synthetic: DataSet, tmp_path: Path, options: list[str]
) -> None:
    with pytest.raises(UserError, match=r"augment\.mixup_alpha=0\.8 blends pairs.*multiples of 2 wanted") as told:
        train_here(synthetic.root, tmp_path / "run", *MIXED, *options)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()


def test_of_the_full_batch_every_sample_is_blended(synthetic: DataSet, tmp_path: Path) -> None:
    summary = train_here(synthetic.root, tmp_path / "run", *MIXED, "batch.size=full", "trainer.max_epochs=2")
    assert summary["steps"] == 2


@pytest.mark.parametrize("objective", ["cross_entropy", "mse", "binary_cross_entropy"])
def test_a_run_with_mixup_learns_and_resumes_to_the_same_weights(
    synthetic: DataSet, tmp_path: Path, objective: str
) -> None:
    options = [
        *MIXED,
        f"objective={objective}",
        "schedule=constant",
        "optimizer.rate=0.02",
        "trainer.log_every_steps=1",
    ]
    train_here(synthetic.root, tmp_path / "whole", *options, "trainer.max_epochs=12")
    losses = [row["train/loss"] for row in metric_rows(tmp_path / "whole") if "train/loss" in row]
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    for epochs in (5, 12):
        train_here(synthetic.root, tmp_path / "parts", *options, f"trainer.max_epochs={epochs}", "resume=true")
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_two_ranks_end_with_the_weights_of_one(synthetic: DataSet, tmp_path: Path) -> None:
    options = [*MIXED, "trainer.max_epochs=2", "objective.label_smoothing=0.1"]
    train_here(synthetic.root, tmp_path / "one", *options)
    run_ranks(2, "pipeline.train", f"data.path={synthetic.root}", f"run_dir={tmp_path / 'two'}", *SMALL, *options)
    for name, value in weights_of(tmp_path / "one").items():
        torch.testing.assert_close(weights_of(tmp_path / "two")[name], value, rtol=1e-4, atol=1e-6)
