"""What a run does and leaves, in one process: batch regimes, accumulation, the run folder, Lightning's traps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from pipeline.build_model import build_model
from pipeline.build_optimizer import plan_steps
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS, TrainConfig, from_stored
from pipeline.data.order import slots_of
from pipeline.data.packed import PackedReader
from pipeline.model_config import MlpConfig
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.track.run_reading import read_config
from pipeline.training.checkpoint import load_checkpoint, newest_whole_checkpoint
from runs import metric_rows, sample_ids, train_here, weights_of
from synthetic_data import TRAIN_SAMPLES, VAL_SAMPLES

PLAIN = ["optimizer=sgd", "optimizer.momentum=0", "augment=none", "schedule=constant"]


def all_samples(data: DataSet, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return normalised pixels (N, D) and labels of a split."""
    reader = PackedReader(data, split)
    ids = np.arange(reader.num_samples)
    images = torch.empty((len(ids), *reader.image_shape), dtype=torch.uint8)
    labels = reader.fill(slots_of(ids), epoch=0, out=images)
    assert data.statistics is not None
    mean, std = torch.tensor(data.statistics.mean), torch.tensor(data.statistics.std)
    return ((images - mean) / std).flatten(1), torch.from_numpy(labels)


def gradient_descent(data: DataSet, batches: list[list[int]], *, rate: float) -> dict[str, torch.Tensor]:
    """The oracle: plain torch SGD over these batches, from the run's own initial weights."""
    model = build_model(MlpConfig(hidden=[16]), in_features=192, num_classes=7, seed=0)
    inputs, labels = all_samples(data, "train")
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for ids in batches:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs[ids]), labels[ids]).backward()
        optimizer.step()
    return {f"model.{name}": value for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("options", "num_steps"),
    [
        (["batch.size=1"], 100),
        (["batch.size=12"], 8),
        (["batch.size=12", "batch.micro_size=5"], 8),
        (["batch.size=full"], 1),
        (["batch.size=full", "batch.micro_size=30"], 1),
    ],
)
def test_every_batch_regime_is_plain_gradient_descent_over_its_batches(
    synthetic: DataSet, tmp_path: Path, options: list[str], num_steps: int
) -> None:
    """Also with a short last window of accumulation (12 = 5+5+2, 100 = 30+30+30+10), which must not weigh more."""
    train_here(synthetic.root, tmp_path / "run", *PLAIN, "log_sample_ids=true", "trainer.max_epochs=2", *options)
    steps = sample_ids(tmp_path / "run")
    assert len(steps) == 2 * num_steps
    if "batch.size=full" in options:
        assert all(sorted(ids) == list(range(TRAIN_SAMPLES)) for _, ids in steps)
    expected = gradient_descent(synthetic, [ids for _, ids in steps], rate=0.01)
    for name, value in weights_of(tmp_path / "run").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


def test_the_summary_is_exact_on_the_whole_validation_split(synthetic: DataSet, tmp_path: Path) -> None:
    summary = train_here(synthetic.root, tmp_path / "run", "trainer.max_epochs=1", "evaluation.slots_per_rank=7")
    model = build_model(MlpConfig(hidden=[16]), in_features=192, num_classes=7, seed=0)
    model.load_state_dict({name.removeprefix("model."): value for name, value in weights_of(tmp_path / "run").items()})
    inputs, labels = all_samples(synthetic, "val")
    logits = model(inputs)
    assert summary["val/samples"] == VAL_SAMPLES
    assert summary["val/top1_frac"] == (logits.argmax(1) == labels).double().mean().item()
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert summary["val/loss"] == pytest.approx(loss, rel=1e-5)


def test_the_run_folder_holds_what_others_rely_on(synthetic: DataSet, tmp_path: Path) -> None:
    summary = train_here(synthetic.root, tmp_path / "run", "trainer.max_epochs=2", "trainer.log_every_steps=3")
    rows = [row for row in metric_rows(tmp_path / "run") if "train/loss" in row or "val/loss" in row]
    assert [row["step"] for row in rows] == [3, 6, 8, 8, 9, 12, 15, 16, 16]
    train_keys = {"train/loss", "rate/images_per_s", "rate/data_wait_frac", "grad/norm", "mem/rss_bytes"}
    assert train_keys <= rows[0].keys()
    assert {"val/top1_frac", "val/loss"} <= rows[3].keys()
    stored = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert stored == summary
    assert {"val/top1_frac", "rate/images_per_s", "rate/data_wait_frac", "wall_s", "versions"} <= stored.keys()
    config = from_stored(read_config(tmp_path / "run"))
    assert config.model == MlpConfig(hidden=[16])
    assert (config.trainer.max_epochs, config.batch.size) == (2, 12)


def test_the_logged_gradient_norm_is_that_of_the_batch(synthetic: DataSet, tmp_path: Path) -> None:
    options = [*PLAIN, "log_sample_ids=true", "trainer.max_steps=1", "trainer.log_every_steps=1"]
    train_here(synthetic.root, tmp_path / "run", *options)
    ids = sample_ids(tmp_path / "run")[0][1]
    model = build_model(MlpConfig(hidden=[16]), in_features=192, num_classes=7, seed=0)
    inputs, labels = all_samples(synthetic, "train")
    torch.nn.functional.cross_entropy(model(inputs[ids]), labels[ids]).backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm().item()
    assert metric_rows(tmp_path / "run")[0]["grad/norm"] == pytest.approx(norm, rel=1e-4)


def test_the_number_of_steps_is_computed_from_data_and_config() -> None:
    """Lightning's estimated_stepping_batches would drop the loader's position, so nothing asks it."""
    config: TrainConfig = compose(
        "train", TRAIN_SCHEMAS, ["trainer.max_epochs=4", "schedule.warmup={value:1,unit:epochs}"]
    )
    plan = plan_steps(config, steps_per_epoch=25, micro_batches=3)
    assert plan.total_steps == 100
    assert plan.rate_at(24) == config.optimizer.rate
    assert plan.rate_at(0) == pytest.approx(config.optimizer.rate / 25)


def test_lightning_is_asked_for_nothing_that_it_gets_wrong(
    synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """self.log costs 250 microseconds a call; estimated_stepping_batches drops a loader's state; DDP would store rank
    0's loader state for all, so there is none."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("must not be called")

    monkeypatch.setattr(pl.LightningModule, "log", refuse)
    monkeypatch.setattr(pl.LightningModule, "log_dict", refuse)
    monkeypatch.setattr(pl.Trainer, "estimated_stepping_batches", property(refuse))
    train_here(synthetic.root, tmp_path / "run", "trainer.max_epochs=1")
    checkpoint = newest_whole_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert load_checkpoint(checkpoint)["loops"]["fit_loop"]["state_dict"].get("combined_loader", [{}]) == [{}]


def test_the_same_seed_is_the_same_run_and_global_random_state_is_no_part_of_it(
    synthetic: DataSet, tmp_path: Path
) -> None:
    options = ["trainer.max_epochs=1", "model.dropout=0.3", "augment=flip_crop"]
    train_here(synthetic.root, tmp_path / "a", *options)
    torch.manual_seed(999)
    np.random.seed(999)
    train_here(synthetic.root, tmp_path / "b", *options)
    train_here(synthetic.root, tmp_path / "c", *options, "seed=1")
    first, second, other = (weights_of(tmp_path / name) for name in "abc")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    "options",
    [
        ["trainer.precision=bf16"],
        ["trainer.clip_norm=0.5"],
        ["objective=mse"],
        ["objective.label_smoothing=0.2"],
        ["model=logistic_regression"],
        ["model=bottleneck_mlp", "model.width=8", "model.depth=2"],
        ["model.norm=batch"],
        ["optimizer=sgd", "optimizer.nesterov=true"],
    ],
)
def test_every_option_trains_and_changes_the_outcome(synthetic: DataSet, tmp_path: Path, options: list[str]) -> None:
    base = ["trainer.max_epochs=8", "optimizer.rate=0.02"]
    default = train_here(synthetic.root, tmp_path / "default", *base)
    summary = train_here(synthetic.root, tmp_path / "run", *base, *options)
    assert summary["val/loss"] != default["val/loss"]
    losses = [row["train/loss"] for row in metric_rows(tmp_path / "run") if "train/loss" in row]
    assert losses[-1] < losses[0]


def test_a_loss_that_is_not_finite_stops_the_run_in_one_line(synthetic: DataSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not finite between steps \d+ and \d+: try a smaller optimizer.rate"):
        train_here(synthetic.root, tmp_path / "run", *PLAIN, "optimizer.rate=1e30", "trainer.log_every_steps=1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["batch.size=101"], "over the 100 samples"),
        (["data.train_split=trian"], "has no split 'trian', only train, val"),
        (["data.path=/nowhere/at/all"], "no such folder"),
        (["batch.micro_size=0"], "batch.micro_size=0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    synthetic: DataSet, tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train_here(synthetic.root, tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_a_flipped_bit_in_a_tar_header_is_found_before_training(synthetic: DataSet, tmp_path: Path) -> None:
    """Python's tar reader takes such a tar for a shorter one and says nothing."""
    root = tmp_path / "data"
    shutil.copytree(synthetic.root, root)
    shard = root / "train" / "shard-000001.tar"
    content = bytearray(shard.read_bytes())
    assert synthetic.packed is not None
    content[2 * synthetic.packed.record_bytes + 150] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"shard-000001.tar: record 2 is damaged"):
        train_here(root, tmp_path / "run")
    assert not (tmp_path / "run").exists()
