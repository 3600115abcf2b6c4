"""Rates: over the run, for a batch size, and for each layer; and optimiser state that meets other options."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.build_model import build_model
from pipeline.build_optimizer import build_optimizer, peak_rate, plan_steps
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS, TrainConfig
from pipeline.model_config import BottleneckMlpConfig, LogisticRegressionConfig, MlpConfig, ModelConfig, Norm
from pipeline.optimizer_config import AdamWConfig, LionConfig, MuonConfig, OptimizerConfig, SgdConfig
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.training.optim import layer_rate_scales, layers_of, parameter_groups
from pipeline.training.schedule import rate_factor
from runs import train_here, weights_of

OPTIMIZERS = [SgdConfig, AdamWConfig, LionConfig, MuonConfig]


def composed(*options: str) -> TrainConfig:
    config: TrainConfig = compose("train", TRAIN_SCHEMAS, list(options))
    return config


def made(config: ModelConfig) -> nn.Module:
    return build_model(config, in_features=6, num_classes=3, seed=0)


def test_linear_falls_straight_to_its_end_and_a_short_decay_leaves_the_peak_before_it() -> None:
    def whole(step: int) -> float:
        return rate_factor(step=step, total_steps=110, warmup_steps=10, shape="linear", final_frac=0.2)

    assert [whole(step) for step in (0, 9, 10, 60, 110)] == pytest.approx([0.1, 1, 1, 0.6, 0.2])
    assert whole(35) - whole(36) == pytest.approx(whole(100) - whole(101))

    def short(step: int) -> float:
        return rate_factor(step=step, total_steps=110, warmup_steps=10, shape="linear", decay_steps=20)

    assert [short(step) for step in (10, 89, 90, 100, 110, 500)] == pytest.approx([1, 1, 1, 0.5, 0, 0])


@pytest.mark.parametrize("shape", ["constant", "cosine", "linear", "exponential"])
@pytest.mark.parametrize("total_steps", [1, 2, 7])
@pytest.mark.parametrize("warmup_steps", [0, 1, 7, 20])
def test_no_run_however_short_has_a_rate_outside_zero_to_the_peak(
    shape: str, total_steps: int, warmup_steps: int
) -> None:
    for decay_steps in (None, 0, 1, 50):
        rates = [
            rate_factor(
                step=step,
                total_steps=total_steps,
                warmup_steps=warmup_steps,
                decay_steps=decay_steps,
                shape=shape,  # type: ignore[arg-type]
                final_frac=0.01,
            )
            for step in range(total_steps)
        ]
        assert all(0 < rate <= 1 for rate in rates)


def test_schedules_of_a_config_are_those_of_their_names() -> None:
    for options, expected in [
        (["schedule=linear"], 0.5),
        (["schedule=linear", "schedule.final_frac=0.5"], 0.75),
        (["schedule=linear", "schedule.decay={value:25,unit:steps}"], 1.0),
        (["schedule=linear", "schedule.decay={value:1,unit:epochs}"], 1.0),
        (["schedule=linear", "schedule.decay={value:0.75,unit:frac}"], 2 / 3),
        (["schedule=cosine"], 0.5),
        (["schedule=constant"], 1.0),
        (["schedule=exponential"], 0.1),
        (["schedule=exponential", "schedule.final_frac=10000"], 100.0),
    ]:
        plan = plan_steps(
            composed("trainer.max_epochs=4", "optimizer.rate=2", *options), steps_per_epoch=25, micro_batches=1
        )
        assert plan.rate_at(50) == pytest.approx(2 * expected), options


def test_the_rate_follows_the_batch_where_a_reference_is_given() -> None:
    sgd = ["optimizer=sgd", "optimizer.rate=0.1", "batch.size=1024"]
    assert peak_rate(composed(*sgd)) == 0.1
    assert peak_rate(composed(*sgd, "optimizer.reference_batch=256")) == pytest.approx(0.4)
    sqrt = ["optimizer.reference_batch=256", "optimizer.batch_scaling=sqrt"]
    assert peak_rate(composed(*sgd, *sqrt)) == pytest.approx(0.2)
    assert peak_rate(composed("optimizer=lion", "batch.size=64", "optimizer.reference_batch=256")) == pytest.approx(
        5e-5
    )
    with pytest.raises(UserError, match=r"optimizer\.reference_batch: wants a number as batch\.size"):
        composed("batch.size=full", "optimizer.reference_batch=256")


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (LogisticRegressionConfig(), {"0.weight": 0}),
        (BottleneckMlpConfig(depth=2, width=4), {"0.bias": 0, "1.expand.weight": 1, "2.norm.weight": 2, "3.weight": 3}),
        (MlpConfig(hidden=[4, 5], norm=Norm.layer), {}),
    ],
)
def test_layers_are_counted_from_the_input_to_the_head(model: ModelConfig, layers: dict[str, int]) -> None:
    counted = layers_of(made(model))
    assert counted.items() >= layers.items()
    assert sorted(set(counted.values())) == list(range(max(counted.values()) + 1))
    assert list(counted.values()) == sorted(counted.values())
    wrapped = layers_of(nn.Sequential(made(model)))
    assert list(wrapped.values()) == list(counted.values())


def test_a_norm_learns_with_the_matrix_before_it() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 4), nn.LayerNorm(4))
    assert list(layers_of(model).values()) == [0, 0, 0, 0, 1, 1, 1, 1]


def test_each_layer_away_from_the_head_learns_slower() -> None:
    model = made(BottleneckMlpConfig(depth=2, width=4))
    scales = layer_rate_scales(model, head=2.0, body=0.5, layer_decay=0.1)
    names = ["3.weight", "2.expand.bias", "1.contract.weight", "0.weight"]
    assert [scales[name] for name in names] == pytest.approx([2.0, 0.05, 0.005, 0.0005])


@pytest.mark.parametrize("schema", OPTIMIZERS)
@pytest.mark.parametrize("model", [LogisticRegressionConfig(), BottleneckMlpConfig(depth=2, width=4)])
def test_every_trained_parameter_is_in_one_group(schema: type[OptimizerConfig], model: ModelConfig) -> None:
    built = made(model)
    frozen = next(iter(built.parameters()))
    frozen.requires_grad_(False)
    optimizer = build_optimizer(schema(layer_decay=0.5), built)
    listed = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {*map(id, listed)} == {id(parameter) for parameter in built.parameters()} - {id(frozen)}
    assert len(listed) == len({*map(id, listed)})


@pytest.mark.parametrize("schema", OPTIMIZERS)
def test_the_first_step_of_a_layer_is_as_long_as_its_rate_says(schema: type[OptimizerConfig]) -> None:
    """Without decay, from the same gradient, twice the scale is twice the step."""

    def steps(**scales: float) -> dict[str, torch.Tensor]:
        model = made(BottleneckMlpConfig(depth=1, width=4))
        optimizer = build_optimizer(schema(rate=0.01, weight_decay=0.0, **scales), model)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        model(torch.linspace(-1, 1, 12).reshape(2, 6)).square().sum().backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * group["rate_scale"]
        optimizer.step()
        return {name: parameter.detach() - before[name] for name, parameter in model.named_parameters()}

    plain, scaled = steps(), steps(head_rate_scale=0.5, body_rate_scale=2.0, layer_decay=0.5)
    for name, factor in [("2.weight", 0.5), ("2.bias", 0.5), ("1.expand.weight", 1.0), ("0.weight", 0.5)]:
        torch.testing.assert_close(scaled[name], plain[name] * factor, rtol=1e-3, atol=1e-7)
        assert plain[name].abs().max() > 0


def test_muon_trains_hidden_matrices_alone() -> None:
    model = made(BottleneckMlpConfig(depth=2, width=4))
    optimizer = build_optimizer(MuonConfig(adamw_rate_scale=0.5), model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rules = {names[id(p)]: (g["rule"], g["rate_scale"]) for g in optimizer.param_groups for p in g["params"]}
    hidden = {"1.expand.weight", "1.contract.weight", "2.expand.weight", "2.contract.weight"}
    assert {name for name, rule in rules.items() if rule == ("muon", 1.0)} == hidden
    assert {rule for name, rule in rules.items() if name not in hidden} == {("adamw", 0.5)}


@pytest.mark.parametrize(
    ("config", "hidden", "head"),
    [
        (SgdConfig(weight_decay=0.3), (1.0, 0.3), (4.0, 0.3 / 4)),
        (AdamWConfig(weight_decay=0.3), (1 / 4, 0.3 * 4), (1.0, 0.3)),
        (LionConfig(weight_decay=0.3), (1 / 4, 0.3 * 4), (1.0, 0.3)),
        (MuonConfig(weight_decay=0.3, match_adamw=False), (1.0, 0.3), (1.0, 0.3)),
        (MuonConfig(weight_decay=0.3), (1 / 2, 0.3 * 2), (1.0, 0.3)),
    ],
)
def test_four_times_the_base_width_scales_rates_as_tensor_programs_has_it_and_leaves_what_decay_does(
    config: OptimizerConfig, hidden: tuple[float, float], head: tuple[float, float]
) -> None:
    """Table 8 of arXiv 2203.03466; rate times decay is that of the base width."""
    model = made(BottleneckMlpConfig(depth=1, width=16, base_width=4))
    groups = build_optimizer(config, model).param_groups
    named = {name: id(parameter) for name, parameter in model.named_parameters()}
    last = max(name for name in named if name.endswith(".weight") and "." not in name.removesuffix(".weight"))
    for name, expected in [("1.expand.weight", hidden), (last, head)]:
        group = next(group for group in groups if named[name] in map(id, group["params"]))
        assert (group["rate_scale"], group["weight_decay"]) == pytest.approx(expected)


def test_a_body_of_rate_zero_stays_and_the_head_learns(synthetic: DataSet, tmp_path: Path) -> None:
    train_here(synthetic.root, tmp_path / "run", "trainer.max_steps=3", "optimizer.body_rate_scale=0")
    start = build_model(MlpConfig(hidden=[16]), in_features=192, num_classes=7, seed=0).state_dict()
    same = {
        name: torch.equal(value, start[name.removeprefix("model.")])
        for name, value in weights_of(tmp_path / "run").items()
    }
    assert [name for name, equal in same.items() if not equal] == list(same)[-2:]


def test_a_resumed_run_has_the_decay_that_it_is_given(synthetic: DataSet, tmp_path: Path) -> None:
    """torch would take the options of the checkpoint, and the change would be without effect."""
    options = ["schedule=constant", "trainer.max_epochs=2", "resume=true"]
    for name, decay in [("same", 0.05), ("other", 5.0)]:
        train_here(synthetic.root, tmp_path / name, "schedule=constant", "trainer.max_epochs=1")
        train_here(synthetic.root, tmp_path / name, *options, f"optimizer.weight_decay={decay}")
    norms = [
        math.sqrt(sum(value.square().sum().item() for value in weights_of(tmp_path / name).values() if value.ndim == 2))
        for name in ("same", "other")
    ]
    assert norms[1] < 0.9 * norms[0]


@pytest.mark.parametrize("other", ["optimizer=sgd", "optimizer=lion", "optimizer.layer_decay=0.5"])
def test_the_state_of_another_optimiser_is_refused(synthetic: DataSet, tmp_path: Path, other: str) -> None:
    train_here(synthetic.root, tmp_path / "run", "trainer.max_epochs=1")
    with pytest.raises(UserError, match=r"the checkpoint's optimiser has other parameter groups \(adamw of 2, adamw"):
        train_here(synthetic.root, tmp_path / "run", "trainer.max_epochs=2", "resume=true", other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["optimizer.reference_batch=0"], "optimizer.reference_batch=0"),
        (["optimizer.head_rate_scale=-1"], "optimizer.head_rate_scale"),
        (["optimizer.layer_decay=0"], "optimizer.layer_decay=0"),
        (["optimizer=lion", "optimizer.beta1=1"], "optimizer.beta1=1"),
        (["optimizer=muon", "optimizer.momentum=1"], "optimizer.momentum=1"),
        (["optimizer=muon", "optimizer.num_iterations=0"], "optimizer.num_iterations=0"),
        (["optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=true"], "optimizer.nesterov=true wants"),
        (["schedule=linear", "schedule.final_frac=2"], "schedule.final_frac=2"),
        (["ema.decay=1"], "ema.decay=1"),
        (["optimizer=loin"], "optimizer=loin: no such choice; there are adamw, lion, muon, sgd"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        composed(*options)


def test_no_scales_means_the_same_groups_as_before() -> None:
    model = made(MlpConfig(hidden=[4]))
    assert [len(group["params"]) for group in parameter_groups(model, weight_decay=0.0)] == [2, 2]
