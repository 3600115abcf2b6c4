"""Average precision against its published definition, threshold by threshold, in whole numbers and fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.average_precision import LabelScores, average_precision

SCORES = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=40)


def by_thresholds(scores: list[float], targets: list[bool]) -> float:
    """scikit-learn's average_precision_score: sum of (R_n - R_(n-1)) P_n, n over thresholds from the highest score."""
    total, recall_before = Fraction(0), Fraction(0)
    for threshold in sorted(set(scores), reverse=True):
        taken = [target for score, target in zip(scores, targets, strict=True) if score >= threshold]
        precision, recall = Fraction(sum(taken), len(taken)), Fraction(sum(taken), sum(targets))
        total += (recall - recall_before) * precision
        recall_before = recall
    return float(total)


@given(SCORES)
def test_it_is_the_sum_over_distinct_scores(rows: list[tuple[int, bool]]) -> None:
    scores, targets = [float(score) for score, _ in rows], [target for _, target in rows]
    found, positives = average_precision(torch.tensor(scores)[:, None], torch.tensor(targets)[:, None])
    assert positives.tolist() == [sum(targets)]
    if any(targets):
        assert found.item() == pytest.approx(by_thresholds(scores, targets), abs=1e-14)
    else:
        assert found.isnan().all()


def test_what_scikit_learns_documentation_says() -> None:
    """y_true = [0, 0, 1, 1], y_scores = [0.1, 0.4, 0.35, 0.8]: 0.83..."""
    found, _ = average_precision(torch.tensor([[0.1], [0.4], [0.35], [0.8]]), torch.tensor([[0], [0], [1], [1]]))
    assert found.item() == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_it_is_bit_equal_for_every_order_of_the_samples_and_every_cut_into_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    scores = torch.from_numpy(rng.integers(0, 50, (300, 7)).astype(np.float32))
    labels = torch.from_numpy(np.where(rng.random((300, 7)) < 0.3, np.arange(7), -1))
    results = []
    for sorted_at_a_time in (1 << 22, 600, 1):
        monkeypatch.setattr("pipeline.training.average_precision.SORTED_SCORES", sorted_at_a_time)
        order = torch.from_numpy(rng.permutation(300))
        kept = LabelScores(num_classes=7)
        for part in order.split(64):
            kept.add(scores[part], labels[part], torch.ones(len(part)))
        results.append(kept.read())
    for result in results[1:]:
        assert torch.equal(result.of_class, results[0].of_class)
        assert torch.equal(result.positives, results[0].positives)
    expected = [by_thresholds(scores[:, k].tolist(), (labels == k).any(dim=1).tolist()) for k in range(7)]
    assert results[0].of_class.tolist() == pytest.approx(expected, abs=1e-13)
    assert results[0].mean == pytest.approx(np.mean(expected), abs=1e-13)


def test_padding_and_classes_that_nobody_has_are_left_out_and_nan_is_the_lowest_score() -> None:
    scores = torch.tensor([[2.0, 0.0, 1.0], [1.0, 0.0, float("nan")], [9.0, 9.0, 9.0]])
    labels = torch.tensor([[0, -1], [0, 2], [1, -1]])
    kept = LabelScores(num_classes=3)
    kept.add(scores, labels, torch.tensor([1.0, 1.0, 0.0]))
    result = kept.read()
    assert result.positives.tolist() == [2, 0, 1]
    assert result.of_class[[0, 2]].tolist() == [1.0, 0.5]
    assert result.of_class[1].isnan()
    assert result.mean == 0.75
