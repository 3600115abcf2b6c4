"""Runs that start from another's weights: what is taken over, what stays, what is refused, what a resume needs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.model.mlp import mlp
from pipeline.model.roles import output_layer
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.training.frozen_body import FrozenBody
from pipeline.training.initial import freeze_body, take_over
from runs import assert_equal_weights, metric_rows, run_ranks, train_here, weights_of
from synthetic_data import make_synthetic
from test_runs import all_samples

PLAIN = ["optimizer=sgd", "schedule=constant", "trainer.max_epochs=1"]
DEEP = ["model=mlp", "model.hidden=[16,12]"]
BODY = ["0.linear.weight", "0.linear.bias", "1.linear.weight", "1.linear.bias"]
HEAD = ["2.weight", "2.bias"]


@pytest.fixture(scope="module")
def trained(synthetic: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model with two hidden layers, on images of 8x8 in 7 classes."""
    run = tmp_path_factory.mktemp("trained") / "run"
    train_here(synthetic.root, run, *DEEP, *PLAIN, "seed=5")
    return run


@pytest.fixture(scope="module")
def other_classes(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Images of the same size in 4 classes."""
    return make_synthetic(
        tmp_path_factory.mktemp("data") / "four", "source.samples=60", "source.val_samples=12", "source.classes=4"
    )


def start(trained: Path, data: DataSet, run: Path, *options: str) -> dict[str, torch.Tensor]:
    """Train from `trained` with a rate of 0 and return the weights, which are those at the start."""
    train_here(data.root, run, *DEEP, *PLAIN, "optimizer.rate=0", f"init.run={trained}", *options)
    return {name.removeprefix("model."): value for name, value in weights_of(run).items()}


def before(data: DataSet, run: Path, *options: str) -> dict[str, torch.Tensor]:
    train_here(data.root, run, *DEEP, *PLAIN, "optimizer.rate=0", *options)
    return {name.removeprefix("model."): value for name, value in weights_of(run).items()}


def differing(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in left if left[name].shape != right[name].shape or not torch.equal(left[name], right[name])]


def test_a_new_head_starts_at_random_on_the_other_runs_body(
    trained: Path, other_classes: DataSet, tmp_path: Path
) -> None:
    source = {name.removeprefix("model."): value for name, value in weights_of(trained).items()}
    random = before(other_classes, tmp_path / "random")
    started = start(trained, other_classes, tmp_path / "run")
    assert differing(started, source) == HEAD
    assert differing(started, random) == BODY
    assert started["2.weight"].shape == (4, 12)


def test_a_kept_head_is_taken_over_too(trained: Path, synthetic: DataSet, tmp_path: Path) -> None:
    started = start(trained, synthetic, tmp_path / "run", "init.head=keep")
    source = {name.removeprefix("model."): value for name, value in weights_of(trained).items()}
    assert differing(started, source) == []


def test_a_linear_probe_trains_the_head_alone_as_logistic_regression_on_the_bodys_features(
    trained: Path, other_classes: DataSet, tmp_path: Path
) -> None:
    options = [*DEEP, *PLAIN, f"init.run={trained}", "augment=none"]
    probe = ["init.freeze_body=true", "model.dropout=0.5", "optimizer.momentum=0", "trainer.max_epochs=2"]
    run = tmp_path / "probe"
    train_here(other_classes.root, run, *options, *probe, "batch.size=full", "optimizer.rate=0.1")
    weights = {name.removeprefix("model."): value for name, value in weights_of(run).items()}
    source = {name.removeprefix("model."): value for name, value in weights_of(trained).items()}
    assert all(torch.equal(weights[name], source[name]) for name in BODY)
    # The oracle: two steps of gradient descent by the closed form of the gradient.
    started = start(trained, other_classes, tmp_path / "start", "model.dropout=0.5")
    head = {name.rpartition(".")[2]: value.double() for name, value in started.items() if name in HEAD}
    features, labels = features_of(other_classes, source)
    one_hot = nn.functional.one_hot(labels, 4).double()
    for _ in range(2):
        residual = (features @ head["weight"].T + head["bias"]).softmax(1) - one_hot
        head["weight"] = head["weight"] - 0.1 * residual.T @ features / len(features)
        head["bias"] = head["bias"] - 0.1 * residual.mean(0)
    found = {name.rpartition(".")[2]: value.double() for name, value in weights.items() if name in HEAD}
    torch.testing.assert_close(found["weight"], head["weight"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["bias"], head["bias"], rtol=1e-4, atol=1e-6)


def features_of(data: DataSet, weights: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the two hidden layers make of the training images, without dropout, and the labels."""
    pixels, labels = all_samples(data, "train")
    hidden = (pixels @ weights["0.linear.weight"].T + weights["0.linear.bias"]).relu()
    return (hidden @ weights["1.linear.weight"].T + weights["1.linear.bias"]).relu().double(), labels


def test_a_frozen_body_stays_in_evaluation_mode_though_all_is_put_into_training_mode() -> None:
    """Else batch norm would go on with its statistics and dropout would change the features."""
    model = mlp(in_features=6, widths=[5, 4], num_classes=3, norm="batch", dropout=0.5)
    freeze_body(model)
    callback = FrozenBody(model)
    model.train()
    callback.on_train_batch_start(None, None)  # type: ignore[arg-type]
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (model(torch.ones(8, 6)) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in kept.items())
    assert model.get_submodule(output_layer(model)[0]).training
    first.sum().backward()
    trained = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert trained == [f"{output_layer(model)[0]}.weight", f"{output_layer(model)[0]}.bias"]


def test_buffers_are_part_of_the_body() -> None:
    models = [mlp(in_features=6, widths=[5], num_classes=3, norm="batch") for _ in range(2)]
    models[0](torch.randn(9, 6))
    take_over(models[1], models[0].state_dict(), keep_head=False, source="x")
    assert differing(models[0].state_dict(), models[1].state_dict()) == [
        f"{output_layer(models[0])[0]}.weight",
        f"{output_layer(models[0])[0]}.bias",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.hidden=[16,11]"], r"1\.linear\.weight is \(12, 16\) there, \(11, 16\) here"),
        (["model.hidden=[16]"], r"does not fit this model: .* which is not here"),
        (["model.hidden=[16,12,12]"], r"2\.linear\.weight is not there, \(12, 12\) here"),
        (["init.head=keep"], r"2\.weight is \(7, 12\) there, \(4, 12\) here; .* or init.head=new"),
        (["model=logistic_regression", "init.head=new"], "one layer has no body"),
        (["init.run=/nowhere"], "neither a run .* nor an export"),
    ],
)
def test_another_model_is_refused_before_anything_is_made(
    trained: Path, other_classes: DataSet, tmp_path: Path, options: list[str], message: str
) -> None:
    model = [] if any(option.startswith("model=") for option in options) else DEEP
    with pytest.raises(UserError, match=message):
        train_here(other_classes.root, tmp_path / "run", *model, *PLAIN, f"init.run={trained}", *options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "message"), [("init.freeze_body=true", "of which run"), ("init.head=keep", "of which")]
)
def test_what_needs_a_run_says_so(synthetic: DataSet, tmp_path: Path, option: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_here(synthetic.root, tmp_path / "run", option)


def test_a_fine_tuning_run_resumes_bit_equal_without_the_run_that_it_started_from(
    trained: Path, other_classes: DataSet, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    options = [*DEEP, *PLAIN, "optimizer.rate=0.01", f"init.run={copy}", "init.freeze_body=true", "augment=flip_crop"]
    train_here(other_classes.root, tmp_path / "whole", *options, "trainer.max_epochs=3")
    train_here(other_classes.root, tmp_path / "cut", *options, "trainer.max_epochs=3", "trainer.max_steps=7")
    shutil.rmtree(copy)
    again = ["trainer.max_epochs=3", "resume=true"]
    train_here(other_classes.root, tmp_path / "cut", *options, *again)
    assert_equal_weights(tmp_path / "whole", tmp_path / "cut")


def test_a_run_whose_checkpoints_are_all_gone_starts_again_from_the_same_weights(
    trained: Path, other_classes: DataSet, tmp_path: Path
) -> None:
    options = [*DEEP, *PLAIN, "optimizer.rate=0.01", f"init.run={trained}"]
    train_here(other_classes.root, tmp_path / "whole", *options)
    train_here(other_classes.root, tmp_path / "run", *options)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    train_here(other_classes.root, tmp_path / "run", *options)
    assert_equal_weights(tmp_path / "whole", tmp_path / "run")


def test_fine_tuning_learns_faster_than_training_from_scratch(
    trained: Path, synthetic: DataSet, tmp_path: Path
) -> None:
    """On the data that the other run has learned, with its head: the first loss is that run's last."""
    options = [*DEEP, *PLAIN, "trainer.log_every_steps=1", "augment=none"]
    train_here(synthetic.root, tmp_path / "long", *options, "trainer.max_epochs=30", "optimizer.rate=0.1")
    train_here(synthetic.root, tmp_path / "fine", *options, f"init.run={tmp_path / 'long'}", "init.head=keep")
    train_here(synthetic.root, tmp_path / "scratch", *options)
    losses = {name: metric_rows(tmp_path / name)[0]["train/loss"] for name in ("fine", "scratch")}
    assert losses["fine"] < 0.7 * losses["scratch"]


@pytest.mark.slow
def test_two_ranks_fine_tune_as_one_does(trained: Path, other_classes: DataSet, tmp_path: Path) -> None:
    options = [f"data.path={other_classes.root}", *DEEP, *PLAIN, f"init.run={trained}", "logger=none", "batch.size=12"]
    options += ["trainer.device=cpu", "init.freeze_body=true", "trainer.measure_bound=false"]
    for ranks in (1, 2):
        run_ranks(ranks, "pipeline.train", f"run_dir={tmp_path / str(ranks)}", *options)
    one, two = weights_of(tmp_path / "1"), weights_of(tmp_path / "2")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-6)
