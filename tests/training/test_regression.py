"""Regression, end to end: targets as they were stored, least squares as in closed form, metrics as computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from pipeline.compose import compose
from pipeline.data.concat import ConcatReader
from pipeline.data.crop import CentreCrop
from pipeline.data.encoded import EncodedReader
from pipeline.data.order import slots_of
from pipeline.data.packed import PackedReader
from pipeline.evaluate import evaluate
from pipeline.evaluate_config import EVALUATE_SCHEMAS
from pipeline.export import main as export_main
from pipeline.inspect import main as inspect_main
from pipeline.model_card import card_of
from pipeline.plan import main as plan_main
from pipeline.predict import Prediction, line_of
from pipeline.predict import main as predict_main
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.trained import build_trained, open_trained
from pipeline.training.checkpoint import checkpoint_name, newest_whole_checkpoint
from pipeline.training.explained_variance import ExplainedVariance
from pipeline.training.objective import mean_squared_error
from regression_data import Samples, random_samples, write_regression_set
from runs import ONE_RANK, metric_rows, run_ranks, sample_ids, train_here, weights_of

COUNTS = {"train": 90, "val": 33}
LINEAR = [
    *("model=logistic_regression", "objective=mse", "augment=none", "optimizer=sgd", "schedule=constant"),
    *("optimizer.momentum=0", "optimizer.weight_decay=0", "batch.size=full", "optimizer.rate=0.5"),
]
SMALL = ["objective=mse", "augment=none", "optimizer.rate=0.02", "trainer.max_epochs=2"]
FloatArray = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def samples() -> Samples:
    return random_samples(COUNTS)


@pytest.fixture(scope="module")
def data(samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return write_regression_set(tmp_path_factory.mktemp("regression") / "plane", samples)


def normalised(samples: Samples, split: str) -> tuple[FloatArray, FloatArray]:
    """Return a split's inputs (N, D), normalised by the training split's statistics, and its targets (N, K)."""
    train = samples["train"][0].astype(np.float64)
    pixels, targets = samples[split]
    return (pixels.reshape(len(pixels), -1) - train.mean()) / train.std(), targets.astype(np.float64)


def test_readers_give_targets_as_they_were_stored(data: DataSet, samples: Samples, tmp_path: Path) -> None:
    coloured = random_samples(COUNTS, side=4, channels=3)
    encoded = write_regression_set(tmp_path / "encoded", coloured, encoded=True)
    packed_reader = PackedReader(data, "train")
    encoded_reader = EncodedReader(encoded, "train", size=(4, 4), crop=CentreCrop(frac=1.0), threads=1)
    ids = np.random.default_rng(1).permutation(COUNTS["train"])
    for reader, stored in ((packed_reader, samples), (encoded_reader, coloured)):
        images = torch.empty((len(ids), *reader.image_shape), dtype=torch.uint8)
        found = reader.fill(slots_of(ids), epoch=0, out=images)
        assert found.dtype == np.float32
        assert np.array_equal(found, stored["train"][1][ids])
        assert np.array_equal(images.numpy(), stored["train"][0][ids])
        reader.close()


def test_mixed_sets_give_each_sample_its_own_targets(data: DataSet, samples: Samples, tmp_path: Path) -> None:
    shifted = {split: (pixels, targets + 100) for split, (pixels, targets) in samples.items()}
    other = write_regression_set(tmp_path / "other", shifted)
    reader = ConcatReader([PackedReader(data, "train"), PackedReader(other, "train")])
    ids = np.random.default_rng(2).permutation(2 * COUNTS["train"])
    images = torch.empty((len(ids), *reader.image_shape), dtype=torch.uint8)
    found = reader.fill(slots_of(ids), epoch=0, out=images)
    reader.close()
    stored = np.concatenate([samples["train"][1], shifted["train"][1]])
    assert found.dtype == np.float32
    assert np.array_equal(found, stored[ids])
    both = f"data.paths=[{data.root},{other.root}]"
    summary = train_here(data.root, tmp_path / "run", *SMALL, both)
    assert summary["data"]["train_samples"] == 2 * COUNTS["train"]


def test_gradient_descent_on_the_mean_squared_error_ends_at_least_squares(
    data: DataSet, samples: Samples, tmp_path: Path
) -> None:
    train_here(data.root, tmp_path / "run", *LINEAR, "trainer.max_epochs=40")
    inputs_ND, targets_NK = normalised(samples, "train")
    with_bias = np.c_[inputs_ND, np.ones(len(inputs_ND))]
    solution = np.linalg.lstsq(with_bias, targets_NK, rcond=None)[0]
    weight, bias = (value.numpy() for value in weights_of(tmp_path / "run").values())
    assert weight == pytest.approx(solution[:-1].T, abs=1e-4)
    assert bias == pytest.approx(solution[-1], abs=1e-4)


def test_evaluation_is_what_the_weights_say_of_the_stored_samples(
    data: DataSet, samples: Samples, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    summary = train_here(data.root, run, *SMALL)
    inputs_ND, targets_NK = normalised(samples, "val")
    with torch.no_grad():
        outputs_NK = build_trained(open_trained(run))(torch.from_numpy(inputs_ND).float()).numpy()
    errors = (outputs_NK - targets_NK) ** 2
    explained = 1 - errors.sum() / ((targets_NK - targets_NK.mean(axis=0)) ** 2).sum()
    assert summary["val/loss"] == summary["val/mse"] == pytest.approx(errors.mean(), rel=1e-5)
    assert summary["val/r2_frac"] == pytest.approx(explained, rel=1e-5)
    assert not [name for name in summary if "top1" in name or "top5" in name]
    found = evaluate(compose("evaluate", EVALUATE_SCHEMAS, [f"run={run}", "device=cpu"]), ONE_RANK)
    assert {name: found[name] for name in ("mse", "r2_frac", "samples")} == {
        "mse": summary["val/mse"],
        "r2_frac": summary["val/r2_frac"],
        "samples": COUNTS["val"],
    }
    assert not (run / "evaluation.classes.json").exists()
    assert {"train/loss", "gap/loss"} <= {name for row in metric_rows(run) for name in row}


@pytest.mark.slow
def test_two_ranks_measure_what_one_does(data: DataSet, tmp_path: Path) -> None:
    options = ["model=mlp", "model.hidden=[16]", "logger=none", "trainer.device=cpu", "batch.size=12", *SMALL]
    one = train_here(data.root, tmp_path / "one", *options)
    run_ranks(2, "pipeline.train", f"data.path={data.root}", f"run_dir={tmp_path / 'two'}", *options)
    two = json.loads((tmp_path / "two" / "summary.json").read_text())
    for name in ("val/mse", "val/r2_frac", "gap/loss"):
        assert two[name] == pytest.approx(one[name], rel=1e-4)


def test_a_run_that_is_gone_on_with_ends_as_one_that_was_not_broken_off(data: DataSet, tmp_path: Path) -> None:
    options = [*SMALL, "checkpoint.every_steps=3", "checkpoint.keep=9", "log_sample_ids=true"]
    train_here(data.root, tmp_path / "whole", *options)
    broken = tmp_path / "broken"
    train_here(data.root, broken, *options)
    # As after a kill: nothing is left but an earlier checkpoint.
    (broken / "summary.json").unlink()
    for path in (broken / "checkpoints").glob("*.ckpt"):
        if path.name != checkpoint_name(6):
            path.unlink()
    assert newest_whole_checkpoint(broken / "checkpoints") == broken / "checkpoints" / checkpoint_name(6)
    train_here(data.root, broken, *options)
    whole, again = weights_of(tmp_path / "whole"), weights_of(broken)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert sample_ids(broken) == sample_ids(tmp_path / "whole")


def test_mixup_blends_targets_as_it_blends_images() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs_BK, targets_BK = (torch.randn(6, 2, generator=generator) for _ in range(2))
    own_B = torch.rand(6, generator=generator)
    own_B[1::2] = 1 - own_B[::2]
    expected = torch.stack(
        [
            (outputs_BK[i] - (own_B[i] * targets_BK[i] + (1 - own_B[i]) * targets_BK[i ^ 1])).square().mean()
            for i in range(6)
        ]
    )
    assert torch.allclose(mean_squared_error(outputs_BK, targets_BK, own_B=own_B), expected)
    plain = torch.nn.functional.mse_loss(outputs_BK, targets_BK, reduction="none").mean(dim=1)
    assert torch.allclose(mean_squared_error(outputs_BK, targets_BK), plain)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_the_variance_explained_is_one_minus_unexplained_over_all(mean: float) -> None:
    generator = torch.Generator().manual_seed(3)
    targets_NK = torch.randn(50, 3, generator=generator) * torch.tensor([1.0, 5.0, 0.1]) + mean
    outputs_NK = targets_NK + 0.5 * torch.randn(50, 3, generator=generator)
    explained = ExplainedVariance(num_targets=3, device="cpu")
    for part in (slice(0, 7), slice(7, 50)):
        explained.add(outputs_NK[part], targets_NK[part], torch.ones(len(targets_NK[part])))
    # Slots of padding, of which a model may say anything.
    explained.add(torch.full((2, 3), torch.nan), torch.zeros(2, 3), torch.zeros(2))
    outputs, targets = outputs_NK.double().numpy(), targets_NK.double().numpy()
    expected = 1 - ((outputs - targets) ** 2).sum() / ((targets - targets.mean(axis=0)) ** 2).sum()
    assert explained.read() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("off", "expected"), [(0.0, 1.0), (0.5, 0.0)])
def test_targets_that_do_not_vary_are_met_or_not(off: float, expected: float) -> None:
    targets_NK = torch.full((40, 1), 0.1)
    explained = ExplainedVariance(num_targets=1, device="cpu")
    explained.add(targets_NK + off, targets_NK, torch.ones(40))
    assert explained.read() == expected


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["objective=cross_entropy"], "use objective=mse"),
        (["objective=binary_cross_entropy"], "use objective=mse"),
        (["objective=mse", "model=perceptron"], "use another, such as model=mlp"),
        (["objective=mse", "data.label_noise=0.5"], "label_noise"),
        (["objective=mse", "checkpoint.keep_best=1"], "use checkpoint.metric=val/mse"),
    ],
)
def test_what_takes_classes_is_refused_and_leaves_nothing(
    data: DataSet, tmp_path: Path, options: list[str], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        train_here(data.root, tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_a_run_tells_its_own_story_in_words_of_regression(
    data: DataSet, samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train_here(data.root, run, *SMALL, "track.pictures=true", "track.report=true")
    assert "val variance explained" in capsys.readouterr().out
    assert "Variance explained" in (run / "report.html").read_text()
    assert "Accuracy" not in (run / "report.html").read_text()
    card = card_of(open_trained(run))
    assert "gives 2 numbers for a grey image" in card
    assert "Targets, in the order of the outputs" in card
    picture = tmp_path / "a.png"
    Image.fromarray(samples["val"][0][0, :, :, 0]).save(picture)
    predict_main([f"run={run}", f"images=[{picture}]", f"out={tmp_path / 'seen'}", "device=cpu"])
    (row,) = map(json.loads, (tmp_path / "seen" / "predictions.jsonl").read_text().splitlines())
    inputs_ND, _ = normalised(samples, "val")
    with torch.no_grad():
        (wanted,) = build_trained(open_trained(run))(torch.from_numpy(inputs_ND[:1]).float()).tolist()
    small = {"height-0": 0.000123456, "height-1": 1.5e9}
    line = line_of(Prediction(path=picture, top=tuple(enumerate(small.values()))), open_trained(run))
    assert line == f"{picture}  height-0 0.0001235, height-1 1.5e+09\n"
    assert row["targets"] == pytest.approx(dict(zip(("height-0", "height-1"), wanted, strict=True)), rel=1e-5)


def test_an_export_of_a_regression_agrees_in_targets_and_names_no_class(
    data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_here(data.root, tmp_path / "run", *SMALL)
    export_main([f"run={tmp_path / 'run'}", f"out={tmp_path / 'out'}", "samples=5"])
    told = capsys.readouterr().out.splitlines()[-1]
    assert "5 samples, largest difference of a target 0.0e+00" in told
    assert "class" not in told


def test_inspect_and_plan_take_targets(
    data: DataSet, samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train_here(data.root, run, *SMALL, "log_sample_ids=true")
    assert inspect_main([f"run={run}", "step=2", "images=12", f"out={tmp_path / 'batch.png'}"]) == 0
    shown = capsys.readouterr().out
    for sample_id in sample_ids(run)[1][1]:
        first, second = samples["train"][1][sample_id].tolist()
        assert f"height-0 {first:.4g}; height-1 {second:.4g}" in shown
    assert plan_main([f"data.path={data.root}", *SMALL, "batch.size=12"]) == 0
