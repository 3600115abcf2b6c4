"""Noise in the gradient: of the size and the steps that were asked for, the same on any ranks and after any resume."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from pipeline.build_optimizer import plan_steps
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS, TrainConfig
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.training.gradient_noise import add_noise
from runs import SMALL, assert_equal_weights, run_ranks, train_here, weights_of
from spawned import on_ranks
from test_optimizer_resume import interrupted_at

# Plain SGD at rate 1 whose gradients are clipped to nothing: what moves a weight is the noise alone, minus 1 times it.
PLAIN = ["optimizer=sgd", "optimizer.momentum=0", "optimizer.rate=1", "schedule=constant", "trainer.clip_norm=1e-12"]


def config_of(*options: str) -> TrainConfig:
    config: TrainConfig = compose("train", TRAIN_SCHEMAS, ["data.path=x", *options])
    return config


def gradients(model: nn.Module, *, std: float = 1.0, seed: int = 0, step: int = 0) -> list[torch.Tensor]:
    """Return what is added to gradients of zero."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    add_noise(model, std=std, seed=seed, step=step)
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def test_noise_is_gaussian_of_the_wanted_size_and_independent_between_steps_and_parameters() -> None:
    model = nn.Sequential(nn.Linear(200, 200), nn.Linear(200, 200))
    first = gradients(model, std=0.3, step=0)[0].flatten()
    assert first.std().item() == pytest.approx(0.3, rel=0.02)
    assert first.mean().item() == pytest.approx(0, abs=4 * 0.3 / math.sqrt(40_000))
    # Of a normal distribution 68.27 % and 95.45 % lie within one and two standard deviations.
    within = [(first.abs() < 0.3 * k).float().mean().item() for k in (1, 2)]
    assert within == pytest.approx([0.6827, 0.9545], abs=0.01)
    others = [gradients(model, step=0)[2], gradients(model, step=1)[0], gradients(model, seed=1)[0]]
    for other in others:
        assert abs(torch.corrcoef(torch.stack([first, other.flatten()]))[0, 1].item()) < 4 / math.sqrt(40_000)


def test_noise_is_that_of_seed_and_step_whatever_was_drawn_before() -> None:
    model = nn.Linear(30, 20)
    first = gradients(model, seed=3, step=5)
    torch.randn(7)
    gradients(model, seed=3, step=6)
    for again, before in zip(gradients(model, seed=3, step=5), first, strict=True):
        assert torch.equal(again, before)


def test_what_is_not_trained_gets_no_noise() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[1].bias.grad = torch.zeros(2)
    add_noise(model, std=1.0, seed=0, step=0)
    assert model[0].weight.grad is None
    assert model[1].bias.grad.count_nonzero() == 2


@pytest.mark.slow
def test_a_model_that_is_cut_over_ranks_gets_the_noise_of_the_whole_one(tmp_path: Path) -> None:
    # 5 rows over 2 ranks are cut unevenly.
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    expected = gradients(model, std=0.1, seed=4, step=9)
    for parts in zip(*on_ranks(2, cut_gradients, tmp_path), strict=True):
        assert torch.equal(parts[0], parts[1])
        assert any(torch.equal(parts[0], whole) for whole in expected)


def cut_gradients(rank: int) -> list[torch.Tensor]:
    """Return the noise that ranks have together."""
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    fully_shard(model, mesh=init_device_mesh("cpu", (distributed.get_world_size(),)))
    return [gradient.full_tensor() for gradient in gradients(model, std=0.1, seed=4, step=9)]  # type: ignore[attr-defined]


def test_an_update_moves_the_weights_by_the_noise_after_the_gradient_was_clipped(
    synthetic: DataSet, tmp_path: Path
) -> None:
    options = [*PLAIN, "seed=2", "trainer.max_epochs=1", "batch.micro_size=5"]
    train_here(synthetic.root, tmp_path / "without", *options)
    decaying = ["gradient_noise.std=0.1", "gradient_noise.decay=0.55"]
    train_here(synthetic.root, tmp_path / "with", *options, *decaying)
    start, end = weights_of(tmp_path / "without"), weights_of(tmp_path / "with")
    moved = nn.Module()
    expected = {name: torch.zeros_like(value) for name, value in start.items()}
    for name, value in start.items():
        moved.register_parameter(name.replace(".", "_"), nn.Parameter(torch.zeros_like(value)))
    for step in range(8):
        for name, noise in zip(start, gradients(moved, std=0.1 * (1 + step) ** -0.275, seed=2, step=step), strict=True):
            expected[name] -= noise
    for name, value in start.items():
        torch.testing.assert_close(end[name] - value, expected[name], rtol=1e-4, atol=1e-6)


def test_noise_begins_and_ends_where_it_is_wanted() -> None:
    config = config_of(
        *("gradient_noise.std=0.2", "gradient_noise.decay=1", "trainer.max_epochs=4"),
        *("gradient_noise.start={value:1,unit:epochs}", "gradient_noise.stop={value:0.75,unit:frac}"),
    )
    std_at = plan_steps(config, steps_per_epoch=3, micro_batches=1).noise_std_at
    assert std_at is not None
    assert [std_at(step) for step in range(12)] == pytest.approx(
        [0.0] * 3 + [0.2 / math.sqrt(age) for age in range(1, 7)] + [0.0] * 3
    )
    assert plan_steps(config_of(), steps_per_epoch=3, micro_batches=1).noise_std_at is None


def test_before_the_noise_a_run_is_the_one_without_to_the_last_bit(synthetic: DataSet, tmp_path: Path) -> None:
    options = ["trainer.max_epochs=2", "checkpoint.keep=100", "checkpoint.every_steps=1"]
    late = ["gradient_noise.std=0.1", "gradient_noise.start={value:5,unit:steps}"]
    train_here(synthetic.root, tmp_path / "without", *options)
    train_here(synthetic.root, tmp_path / "late", *options, *late)
    for step, is_equal in ((5, True), (6, False)):
        pair = [interrupted_at(step, tmp_path / name, tmp_path / f"{name}-{step}") for name in ("without", "late")]
        left, right = map(weights_of, pair)
        assert all(torch.equal(left[name], right[name]) for name in left) is is_equal


@pytest.mark.parametrize(
    "optimizer", ["sgd", pytest.param("muon", marks=pytest.mark.slow), pytest.param("lion", marks=pytest.mark.slow)]
)
def test_resumed_at_any_step_the_noise_goes_on(synthetic: DataSet, tmp_path: Path, optimizer: str) -> None:
    options = [
        *(f"optimizer={optimizer}", "model.hidden=[16,16]", "trainer.max_epochs=2"),
        *("checkpoint.every_steps=1", "checkpoint.keep=100", "gradient_noise.std=0.01", "gradient_noise.decay=0.55"),
    ]
    train_here(synthetic.root, tmp_path / "whole", *options)
    train_here(synthetic.root, tmp_path / "without", *options[:-2])
    left, right = weights_of(tmp_path / "whole"), weights_of(tmp_path / "without")
    assert not any(torch.equal(left[name], right[name]) for name in left)
    for step in (1, 8, 13):
        resumed = interrupted_at(step, tmp_path / "whole", tmp_path / f"resumed-{step}")
        train_here(synthetic.root, resumed, *options)
        assert_equal_weights(tmp_path / "whole", resumed)


def test_units_that_start_alike_stay_alike_under_mini_batches_and_part_under_noise(
    synthetic: DataSet, tmp_path: Path
) -> None:
    options = ["model.hidden=[16]", "model.identical_units=true", "trainer.max_epochs=3", "optimizer=sgd"]
    train_here(synthetic.root, tmp_path / "alike", *options)
    train_here(synthetic.root, tmp_path / "parted", *options, "gradient_noise.std=0.01")
    alike, parted = (weights_of(tmp_path / name)["model.0.linear.weight"] for name in ("alike", "parted"))
    apart = [(weights - weights[:1]).norm() / weights.norm() for weights in (alike, parted)]
    assert apart[0].item() < 1e-5
    assert apart[1].item() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_ranks_have_one_noise(synthetic: DataSet, tmp_path: Path, strategy: str) -> None:
    options = [*SMALL, "optimizer=sgd", "trainer.max_epochs=2", "gradient_noise.std=0.05"]
    train_here(synthetic.root, tmp_path / "one", *options)
    there = [f"data.path={synthetic.root}", f"run_dir={tmp_path / 'two'}", f"trainer.strategy={strategy}"]
    run_ranks(2, "pipeline.train", *options, *there)
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("gradient_noise.std=-1", "gradient_noise.std=-1.0: null or at least 0"),
        ("gradient_noise.decay=0.5", "of which noise"),
        ("gradient_noise.decay=-0.5", "at least 0"),
    ],
)
def test_noise_that_makes_no_sense_is_refused(option: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        config_of(option)


def test_noise_that_would_end_before_it_begins_is_refused() -> None:
    config = config_of("gradient_noise.std=1", "gradient_noise.start={value:1,unit:frac}")
    with pytest.raises(UserError, match="start at step 30 and stop at step 30"):
        plan_steps(config, steps_per_epoch=3, micro_batches=1)
