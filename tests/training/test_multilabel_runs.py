"""Several labels an image, end to end: from COCO's own form to mean average precision on any number of ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from coco_data import CLASSES, COUNTS, make_coco
from pipeline.build_model import build_model
from pipeline.compose import compose
from pipeline.data.order import slots_of
from pipeline.data.packed import PackedReader
from pipeline.evaluate import evaluate
from pipeline.evaluate_config import EVALUATE_SCHEMAS
from pipeline.model_config import MlpConfig
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from runs import ONE_RANK, metric_rows, run_ranks, train_here, weights_of
from tiny_data import rows_of

Labels = dict[str, list[list[int]]]
MULTILABEL = ["objective=binary_cross_entropy", "optimizer.rate=0.02", "augment=none"]


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataSet, Labels]:
    return make_coco(tmp_path_factory.mktemp("coco"))


def stored_labels(data: DataSet, labels: Labels, split: str) -> list[list[int]]:
    """Return the annotations' labels by sample id; preparation shuffles, and keeps the file's name."""
    return [labels[split][int(Path(bytes(row["source_key"]).decode()).stem)] for _, row in rows_of(data, split)]


def test_packed_labels_are_the_annotations(coco: tuple[DataSet, Labels]) -> None:
    data, labels = coco
    assert len(data.split("train").shards) > 1
    for split, count in COUNTS.items():
        reader = PackedReader(data, split)
        ids = np.random.default_rng(0).permutation(count)
        images = torch.empty((count, *reader.image_shape), dtype=torch.uint8)
        found = reader.fill(slots_of(ids), epoch=0, out=images)
        stored = stored_labels(data, labels, split)
        assert [[label for label in row if label >= 0] for row in found.tolist()] == [stored[i] for i in ids]
        reader.close()


def test_a_run_learns_the_classes_and_says_its_mean_average_precision(
    coco: tuple[DataSet, Labels], tmp_path: Path
) -> None:
    data, labels = coco
    summary = train_here(data.root, tmp_path / "run", *MULTILABEL, "optimizer.rate=0.001", "trainer.max_epochs=20")
    assert summary["val/map_frac"] > 0.95
    rows = [row for row in metric_rows(tmp_path / "run") if "val/map_frac" in row]
    assert rows[0]["val/map_frac"] < rows[-1]["val/map_frac"] == summary["val/map_frac"]
    # The loss of the trained weights by torch's own, over the whole split at once.
    model = build_model(MlpConfig(hidden=[16]), in_features=192, num_classes=4, seed=0)
    model.load_state_dict({name.removeprefix("model."): value for name, value in weights_of(tmp_path / "run").items()})
    reader = PackedReader(data, "val")
    images = torch.empty((reader.num_samples, *reader.image_shape), dtype=torch.uint8)
    reader.fill(slots_of(np.arange(reader.num_samples)), epoch=0, out=images)
    assert data.statistics is not None
    pixels = (images - torch.tensor(data.statistics.mean)) / torch.tensor(data.statistics.std)
    targets = torch.tensor([[float(k in present) for k in range(4)] for present in stored_labels(data, labels, "val")])
    logits = model(pixels.flatten(1))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets).item()
    assert summary["val/loss"] == pytest.approx(expected, rel=1e-5)
    assert summary["val/mse"] == pytest.approx((logits.sigmoid() - targets).square().mean().item(), rel=1e-5)
    reader.close()


def test_encoded_images_train_alike(tmp_path: Path) -> None:
    data, _ = make_coco(tmp_path, "layout=encoded")
    options = [*MULTILABEL, "data.resolution=8", "trainer.max_epochs=15"]
    assert train_here(data.root, tmp_path / "run", *options)["val/map_frac"] > 0.95


def test_one_label_objectives_refuse_it_in_one_line(coco: tuple[DataSet, Labels], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="use objective=binary_cross_entropy") as told:
        train_here(coco[0].root, tmp_path / "run")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()


def test_evaluation_writes_a_row_for_each_class(coco: tuple[DataSet, Labels], tmp_path: Path) -> None:
    train_here(coco[0].root, tmp_path / "run", *MULTILABEL, "trainer.max_epochs=3")
    config = compose("evaluate", EVALUATE_SCHEMAS, [f"run={tmp_path / 'run'}", "device=cpu", "slots_per_rank=7"])
    metrics = evaluate(config, ONE_RANK)
    rows = json.loads((tmp_path / "run" / "evaluation.classes.json").read_text())
    assert [row["class"] for row in rows] == list(CLASSES)
    positives = np.bincount(np.concatenate([np.array(row, dtype=int) for row in coco[1]["val"]]), minlength=4)
    assert [row["samples"] for row in rows] == positives.tolist()
    assert metrics["map_frac"] == pytest.approx(np.mean([row["average_precision_frac"] for row in rows]), abs=1e-12)


@pytest.mark.slow
def test_it_is_equal_to_the_last_digit_on_one_two_and_three_ranks(coco: tuple[DataSet, Labels], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train_here(coco[0].root, run_dir, *MULTILABEL, "trainer.max_epochs=1")
    results = []
    for num_ranks in (1, 2, 3):
        run_ranks(num_ranks, "pipeline.evaluate", f"run={run_dir}", "device=cpu", "slots_per_rank=4")
        written = [(run_dir / name).read_text() for name in ("evaluation.json", "evaluation.classes.json")]
        results.append([json.loads(text) for text in written])
    for metrics, rows in results[1:]:
        assert metrics["map_frac"] == results[0][0]["map_frac"]
        assert metrics["samples"] == 41
        assert rows == results[0][1]


@pytest.mark.slow
def test_two_ranks_train_as_one(coco: tuple[DataSet, Labels], tmp_path: Path) -> None:
    options = [*MULTILABEL, "augment.mixup_alpha=0.8", "trainer.max_epochs=2", "logger=none", "batch.size=12"]
    options += ["model=mlp", "model.hidden=[16]", "trainer.device=cpu", "trainer.measure_bound=false"]
    for name, num_ranks in (("one", 1), ("two", 2)):
        run_ranks(num_ranks, "pipeline.train", f"data.path={coco[0].root}", f"run_dir={tmp_path / name}", *options)
    for name, value in weights_of(tmp_path / "one").items():
        torch.testing.assert_close(weights_of(tmp_path / "two")[name], value, rtol=1e-4, atol=1e-6)
