"""The highest scores against sorting everything, on one rank and on several; wrong answers against a loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.loader import Batch
from pipeline.track.eval_watch import NUM_PAIRS, NUM_SHOWN, EvalWatch
from pipeline.track.hardest import TopSample, TopSamples
from pipeline.training.scores import Scores
from spawned import on_ranks

NUM, SIDE, CLASSES = 300, 4, 6


def batch_of(ids: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Batch:
    """A batch in which a sample's image is its id, spelled in bytes."""
    images = np.zeros((len(ids), SIDE, SIDE, 1), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = ids % 256, ids // 256
    return Batch(
        images_BHWC=torch.from_numpy(images),
        labels_B=torch.from_numpy(labels),
        weights_B=torch.from_numpy(weights.astype(np.float32)),
        positions_B=torch.from_numpy(ids),
        sample_ids=ids,
        epoch=0,
        step=0,
        micro=0,
        global_weight=1.0,
        buffer=0,
    )


def shown_id(sample: TopSample) -> int:
    return int(sample.image_HWC[0, 0, 0]) + 256 * int(sample.image_HWC[0, 1, 0])


def top_of(scores: np.ndarray, weights: np.ndarray, *, count: int, parts: int) -> list[TopSample]:
    """What is kept of scores that come in `parts` batches."""
    top = TopSamples(count=count)
    for ids in np.array_split(np.arange(len(scores)), parts):
        values = torch.from_numpy(scores[ids].astype(np.float32))
        top.add(
            values,
            batch_of(ids, ids % CLASSES, weights[ids]),
            answers_B=torch.from_numpy(ids % 5),
            confidences_B=values / 2,
            losses_B=values,
        )
    return top.read()


@pytest.mark.parametrize(("count", "parts"), [(24, 1), (24, 7), (1, 300), (400, 5)])
def test_kept_are_the_highest_scores_of_weighted_samples_of_equal_ones_the_lower_ids(count: int, parts: int) -> None:
    rng = np.random.default_rng((count, parts))
    scores, weights = rng.integers(0, 40, NUM).astype(np.float64), rng.random(NUM) < 0.7
    scores[rng.random(NUM) < 0.2] = -np.inf
    found = top_of(scores, weights, count=count, parts=parts)
    ranking = sorted((-scores[i], i) for i in range(NUM) if weights[i] and scores[i] > -np.inf)
    expected = [number for _, number in ranking][:count]
    assert [sample.sample_id for sample in found] == expected
    # What is shown beside an id is that sample's own.
    assert [shown_id(sample) for sample in found] == expected
    assert [sample.labels for sample in found] == [(number % CLASSES,) for number in expected]
    assert [sample.answer for sample in found] == [number % 5 for number in expected]
    assert [sample.confidence for sample in found] == [scores[number] / 2 for number in expected]


def test_a_score_that_is_not_a_number_is_the_highest_and_infinities_are_sorted() -> None:
    scores = np.array([1.0, np.inf, np.nan, 3.0, np.nan, -np.inf])
    found = top_of(scores, np.array([1, 1, 1, 1, 0, 1]), count=4, parts=2)
    assert [sample.sample_id for sample in found] == [1, 2, 3, 0]


def watched_of(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray, *, rank: int, num_ranks: int) -> Any:
    """What a rank of several finds in its share of global batches of 30 samples."""
    losses = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(labels.clip(0)), reduction="none"
    )
    watch = EvalWatch(scores=Scores.softmax, num_classes=CLASSES)
    for start in range(0, NUM, 30):
        ids = np.array_split(np.arange(start, start + 30), num_ranks)[rank]
        batch = batch_of(ids, labels[ids], weights[ids])
        watch.add(torch.from_numpy(logits[ids]), losses[ids], batch)
    return watch.read()


def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    logits = (3 * rng.normal(size=(NUM, CLASSES))).astype(np.float32)
    return logits, rng.integers(0, CLASSES, NUM), rng.random(NUM) < 0.9


def test_wrong_answers_and_pairs_are_those_of_a_loop_over_samples() -> None:
    logits, labels, weights = drawn()
    found = watched_of(logits, labels, weights, rank=0, num_ranks=1)
    shares = torch.from_numpy(logits).softmax(dim=1).numpy()
    wrong, pairs = [], {}
    for number in range(NUM):
        answer = int(np.argmax(logits[number]))
        if weights[number] and answer != labels[number]:
            wrong.append((-shares[number, answer], number, answer))
            pairs[int(labels[number]), answer] = pairs.get((int(labels[number]), answer), 0) + 1
    wrong.sort()
    assert len(wrong) > NUM_SHOWN
    assert [(s.sample_id, s.answer) for s in found.confident_wrong] == [(n, a) for _, n, a in wrong[:NUM_SHOWN]]
    assert [s.confidence for s in found.confident_wrong] == pytest.approx([-s for s, *_ in wrong[:NUM_SHOWN]])
    losses = np.array([-np.log(shares[n, labels[n]]) if weights[n] else -1 for n in range(NUM)])
    assert [s.sample_id for s in found.worst] == np.argsort(-losses, kind="stable")[:NUM_SHOWN].tolist()
    expected = sorted(((-count, label, answer) for (label, answer), count in pairs.items()))
    assert [(-p.samples, p.label, p.answer) for p in found.pairs] == expected[:NUM_PAIRS]


def test_of_several_labels_the_wrong_answer_is_the_highest_class_that_a_sample_has_not() -> None:
    logits = np.array([[4, 3, 2, 1], [4, 3, 2, 1], [1, 2, 9, 8]], dtype=np.float32)
    labels = np.array([[0, 1, -1], [2, -1, -1], [-1, -1, -1]])
    watch = EvalWatch(scores=Scores.sigmoid, num_classes=4)
    batch = batch_of(np.arange(3), labels, np.ones(3))
    watch.add(torch.from_numpy(logits), torch.tensor([0.1, 0.3, 0.2]), batch)
    found = watch.read()
    assert [(s.sample_id, s.answer, s.labels) for s in found.confident_wrong] == [
        (2, 2, ()),
        (1, 0, (2,)),
        (0, 2, (0, 1)),
    ]
    assert [s.confidence for s in found.confident_wrong] == pytest.approx([1 / (1 + np.exp(-x)) for x in (9, 4, 2)])
    assert [(s.sample_id, s.answer) for s in found.worst] == [(1, 0), (2, 2), (0, 0)]
    assert found.pairs == []


def wide_labels(*, ids: np.ndarray) -> np.ndarray:
    """Labels of samples, as many columns as the widest of these samples needs: what a reader gives of a batch."""
    labels = np.array([[0, -1, -1], [1, 2, -1], [0, 1, 3], [-1, -1, -1]])[ids % 4]
    return labels[:, : max(1, int((labels >= 0).sum(axis=1).max()))]


def watched_of_wide_labels(*, rank: int, num_ranks: int) -> Any:
    watch = EvalWatch(scores=Scores.sigmoid, num_classes=4)
    for number in range(rank, 8, num_ranks):  # each sample a batch, so that widths differ in time and between ranks
        ids = np.array([number])
        batch = batch_of(ids, wide_labels(ids=ids), np.ones(1))
        watch.add(torch.arange(4.0).roll(number)[None], torch.tensor([float(number)]), batch)
    return watch.read()


def test_batches_whose_samples_have_different_numbers_of_labels_are_watched_together() -> None:
    found = watched_of_wide_labels(rank=0, num_ranks=1)
    expected = [(), (0, 1, 3), (1, 2), (0,)] * 2
    assert [(s.sample_id, s.labels) for s in found.worst] == list(zip(range(7, -1, -1), expected, strict=True))


def told(found: Any) -> list[Any]:
    return [
        [(s.sample_id, s.labels, s.answer, s.confidence, s.loss, shown_id(s)) for s in samples]
        for samples in (found.worst, found.confident_wrong)
    ]


def on_rank(rank: int, num_ranks: int) -> dict[str, Any]:
    found = watched_of(*drawn(), rank=rank, num_ranks=num_ranks)
    few = TopSamples(count=5)
    ids = np.array([rank])
    for weight in (0.0, 1.0 if rank else 0.0):  # rank 0 has none that counts
        values = torch.tensor([float(rank)])
        batch = batch_of(ids, ids, np.array([weight]))
        few.add(values, batch, answers_B=values.long(), confidences_B=values, losses_B=values)
    pairs = [(pair.label, pair.answer, pair.samples) for pair in found.pairs]
    return {
        "told": told(found),
        "pairs": pairs,
        "few": [(s.sample_id, shown_id(s)) for s in few.read()],
        "wide": told(watched_of_wide_labels(rank=rank, num_ranks=num_ranks)),
    }


@pytest.mark.slow
def test_three_ranks_find_what_one_finds(tmp_path: Path) -> None:
    alone = watched_of(*drawn(), rank=0, num_ranks=1)
    ranks = on_ranks(3, on_rank, tmp_path, 3)
    for found in ranks:
        assert found["told"] == told(alone)
        assert found["few"] == [(2, 2), (1, 1)]
        # Rank 1 has no sample of three labels.
        assert found["wide"] == told(watched_of_wide_labels(rank=0, num_ranks=1))
    assert ranks[0]["pairs"] == [(pair.label, pair.answer, pair.samples) for pair in alone.pairs]
