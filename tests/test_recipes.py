"""The presets: each composes and builds, on the meta device, the model, optimiser and schedule that it claims."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from pipeline.build import build_module
from pipeline.build_optimizer import plan_steps
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS, TrainConfig, from_stored, to_stored
from pipeline.model.roles import output_layer
from pipeline.shards.manifest import DataSet
from pipeline.shards.task import Task
from pipeline.training.initial import freeze_body
from pipeline.training.module import ClassifierModule
from tiny_data import ROOT

EXPERIMENTS = {path.stem: path for path in sorted((ROOT / "conf" / "experiment").glob("*.yaml"))}
# The data set that each is meant for: side of its images, classes.
MEANT_FOR = {"imagenet21k": (64, 11_230), "imagenet": (64, 1000), "cifar100": (64, 100), "coco": (64, 80)}
MILLIONS = {"imagenet21k_pretrain": 124.84, "coco_multilabel": 18.937}


def compose_preset(name: str) -> TrainConfig:
    config: TrainConfig = compose("train", TRAIN_SCHEMAS, [f"experiment={name}"])
    return config


def build(config: TrainConfig, name: str) -> tuple[ClassifierModule, torch.optim.Optimizer]:
    """Build a run of 50,000 samples an epoch, without memory for its weights."""
    side, num_classes = MEANT_FOR.get(name.partition("_")[0], (32 if config.init.run is None else 64, 10))
    classes = tuple(map(str, range(num_classes)))
    data_set = DataSet(
        root=Path("data"),
        name="data",
        task=Task.multilabel if name.startswith("coco") else Task.classification,
        classes=classes,
        class_ids=classes,
        packed=None,
        is_foreign=False,
        splits={},
        statistics=None,
        num_rejected=0,
        rejected_sha256="",
    )
    plan = plan_steps(config, steps_per_epoch=50_000 // int(config.batch.size), micro_batches=1)
    with torch.device("meta"):
        module = build_module(config, data_set, plan, image_shape=(side, side, 3))
        return module, module.configure_optimizers()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_preset_builds_and_can_be_stored(name: str) -> None:
    config = compose_preset(name)
    module, optimizer = build(config, name)
    assert module.plan.total_steps == config.trainer.max_epochs * (50_000 // int(config.batch.size))
    assert module.plan.rate_at(module.plan.total_steps // 2) > 0
    grouped = sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])
    assert grouped == sum(parameter.numel() for parameter in module.model.parameters())
    if name in MILLIONS:
        assert grouped / 1e6 == pytest.approx(MILLIONS[name], abs=0.005)
    assert from_stored(to_stored(config)) == config


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.endswith("_finetune")])
def test_fine_tuning_has_a_rate_for_the_head_and_one_for_the_body(name: str) -> None:
    """0.01 and 0.001, as the authors' command line gives them."""
    config = compose_preset(name)
    module, optimizer = build(config, name)
    head = {id(parameter) for parameter in output_layer(module.model)[1].parameters()}
    for group in optimizer.param_groups:
        rate = module.plan.rate_at(5) * group.get("rate_scale", 1.0)
        for parameter in group["params"]:
            assert rate == pytest.approx(0.01 if id(parameter) in head else 0.001)
    assert config.trainer.clip_norm == 1.0
    assert config.init.run == compose_preset("imagenet21k_pretrain").run_dir


def test_a_fine_tuned_model_has_the_body_of_the_pre_trained_one() -> None:
    pretrained, _ = build(compose_preset("imagenet21k_pretrain"), "imagenet21k_pretrain")
    body = {name: value.shape for name, value in pretrained.model.state_dict().items()}
    for name in EXPERIMENTS:
        if compose_preset(name).init.run is None:
            continue
        tuned, _ = build(compose_preset(name), name)
        head, _ = output_layer(tuned.model)
        for key, value in tuned.model.state_dict().items():
            assert key.startswith(f"{head}.") or body[key] == value.shape


def test_a_linear_probe_trains_the_head_alone() -> None:
    config = compose_preset("cifar10_probe")
    module, _ = build(config, "cifar10_probe")
    assert config.init.freeze_body
    freeze_body(module.model)
    trained = [parameter.numel() for parameter in module.model.parameters() if parameter.requires_grad]
    assert sorted(trained) == [10, 10 * 1024]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_preset_says_what_it_is_for_and_what_was_not_run(name: str) -> None:
    lines = EXPERIMENTS[name].read_text().splitlines()
    header = " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))
    for word in ("Purpose: ", "Expected: ", "Hardware and time: ", f'Command: make train ARGS="experiment={name}'):
        assert word in header
    assert ("not run" in header.lower()) == (name not in ("cifar10_budget", "cifar10_logistic", "cifar10_mlp"))
    # Presets do not chain.
    assert not any(re.match(r"\s*- (override )?/?experiment", line) for line in lines)


def test_each_preset_changes_something_and_no_two_are_alike() -> None:
    configs = [dataclasses.replace(compose_preset(name), run_dir=None) for name in EXPERIMENTS]
    configs.append(compose("train", TRAIN_SCHEMAS, []))
    assert all(left != right for number, left in enumerate(configs) for right in configs[:number])
