"""Counts by class against a loop over samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.shards.manifest import DataSet
from pipeline.training.class_report import ClassSums
from pipeline.training.metrics import MetricSums, num_ahead
from runs import run_ranks, train_here
from synthetic_data import VAL_SAMPLES


def test_counts_are_those_of_a_loop_over_the_samples_that_have_weight() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(500, 6)).astype(np.float32), rng.integers(0, 5, 500)
    weights = (rng.random(500) < 0.8).astype(np.float32)
    sums = ClassSums(num_classes=6, device="cpu")
    for part in np.array_split(np.arange(500), 9):
        sums.add(*(torch.from_numpy(values[part]) for values in (logits, labels, weights)))
    confusion = np.zeros((6, 6), dtype=np.int64)
    for row, label, weight in zip(logits, labels, weights, strict=True):
        confusion[label, int(np.argmax(row))] += int(weight)
    report = sums.read()
    assert report.confusion is not None
    assert report.hits is not None
    assert np.array_equal(report.confusion.numpy(), confusion)
    assert report.samples.tolist() == confusion.sum(axis=1).tolist()
    assert report.hits.tolist() == confusion.diagonal().tolist()
    rows = report.rows(("a", "b", "c", "d", "e", "nobody"))
    assert rows[2] == {"class": "c", "samples": confusion[2].sum(), "top1_frac": confusion[2, 2] / confusion[2].sum()}
    assert rows[5] == {"class": "nobody", "samples": 0, "top1_frac": None}
    assert "NaN" not in json.dumps(rows)


def test_of_very_many_classes_there_is_no_matrix_but_the_rest() -> None:
    sums = ClassSums(num_classes=3000, device="cpu")
    logits = torch.zeros((2, 3000))
    logits[0, 2999] = 1
    sums.add(logits, torch.tensor([2999, 7]), torch.ones(2))
    report = sums.read()
    assert report.confusion is None
    assert report.accuracy is not None
    assert report.accuracy[[7, 2999]].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("num_labels", [1, 3])
def test_of_several_labels_the_best_ranked_counts(num_labels: int) -> None:
    """The loop: sort classes by falling logit, lower classes first among equals; where is the first of the labels?"""
    rng = np.random.default_rng(num_labels)
    logits = rng.integers(0, 4, (200, 8)).astype(np.float32)
    labels = np.full((200, num_labels), -1)
    for row in labels:
        present = np.sort(rng.permutation(8)[: rng.integers(0, num_labels + 1)])
        row[: len(present)] = present
    expected = []
    for row, present in zip(logits, labels, strict=True):
        ranking = np.argsort(-row, kind="stable").tolist()
        expected.append(min((ranking.index(label) for label in present if label >= 0), default=13))
    assert num_ahead(torch.from_numpy(logits), torch.from_numpy(labels)).tolist() == expected
    sums = MetricSums("cpu")
    sums.add(torch.from_numpy(logits), torch.from_numpy(labels), torch.zeros(200), torch.ones(200))
    metrics, _ = sums.read()
    assert metrics["top1_frac"] == np.mean(np.array(expected) < 1)
    assert metrics["top5_frac"] == np.mean(np.array(expected) < 5)


@pytest.mark.slow
def test_an_evaluation_counts_the_same_on_one_and_three_ranks(synthetic: DataSet, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train_here(synthetic.root, run_dir, "trainer.max_epochs=2")
    found = []
    for num_ranks in (1, 3):
        run_ranks(num_ranks, "pipeline.evaluate", f"run={run_dir}", "device=cpu", "slots_per_rank=4")
        metrics, rows = (json.loads((run_dir / f"evaluation.{end}").read_text()) for end in ("json", "classes.json"))
        found.append((np.load(run_dir / "evaluation.confusion.npy"), rows, metrics))
    for confusion, rows, metrics in found:
        assert np.array_equal(confusion, found[0][0])
        assert rows == found[0][1]
        assert confusion.sum() == VAL_SAMPLES
        assert confusion.diagonal().sum() / VAL_SAMPLES == metrics["top1_frac"]
        assert [row["samples"] for row in rows] == confusion.sum(axis=1).tolist()
        assert metrics["mse"] == pytest.approx(found[0][2]["mse"], rel=1e-12)
