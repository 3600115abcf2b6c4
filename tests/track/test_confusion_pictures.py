"""Confusions as pictures and tables: what can be read off them, and when they are drawn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pipeline.track.confusion import MAX_DRAWN, MAX_NAMED, MAX_WRITTEN, PLAIN_SIDE, Pair, draw_confusion, most_frequent
from pipeline.track.contact_sheet import Tile, draw_sheet
from pipeline.track.eval_pictures import TIMES_BETWEEN, class_table, drawn_steps
from pipeline.training.class_report import ClassReport

WHITE = 255


def cells_of(confusion: np.ndarray) -> np.ndarray:
    """The colour of each cell's first pixel, found by the picture's own frame; numbers stand in the middle."""
    num_classes = len(confusion)
    image = np.asarray(draw_confusion(confusion, [str(n) for n in range(num_classes)], title="t")).astype(int)
    is_frame = (image == (226, 226, 226)).all(axis=2)
    (top, bottom), (left, right) = (np.flatnonzero(is_frame.sum(axis=axis) > 60)[[0, -1]] for axis in (1, 0))
    top, left = top + 1, left + 1
    cell, rest = divmod(bottom - top, num_classes)
    assert rest == 0
    assert right - left == bottom - top
    corners = (np.arange(num_classes) * cell)[:, None]
    return image[top + corners, left + corners.T]


@pytest.mark.parametrize("num_classes", [2, MAX_WRITTEN, MAX_WRITTEN + 1, MAX_NAMED + 1, 300, MAX_DRAWN])
def test_a_cell_is_darker_the_more_of_its_label_went_there_blue_if_right_orange_if_wrong(
    num_classes: int,
) -> None:
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    confusion[0, :2] = 30, 70
    confusion[1, :2] = 10, 90
    cells = cells_of(confusion)
    for right in (cells[0, 0], cells[1, 1]):
        assert right[2] > right[0]  # blue over red
    for wrong in (cells[0, 1], cells[1, 0]):
        assert wrong[0] > wrong[2]
    assert cells[1, 1].sum() < cells[0, 0].sum()
    assert cells[0, 1].sum() < cells[1, 0].sum()
    empty = np.ones((num_classes, num_classes), dtype=bool)
    empty[:2, :2] = False
    assert (cells[empty] == WHITE).all()


def test_one_wrong_answer_of_a_thousand_is_seen() -> None:
    confusion = np.diag([999, 1000, 1000])
    confusion[0, 2] = 1
    cells = cells_of(confusion)
    assert WHITE - cells[0, 2].min() > 5
    assert (cells[0, 1] == WHITE).all()


def test_long_names_and_many_classes_keep_the_picture_to_a_page() -> None:
    for num_classes in (3, MAX_NAMED, MAX_DRAWN):
        names = [f"a class of a very long name, number {number}" for number in range(num_classes)]
        image = draw_confusion(np.ones((num_classes, num_classes), dtype=np.int64), names, title="Step 1")
        assert image.width <= PLAIN_SIDE + 400


def test_class_names_of_several_lines_or_of_any_length_are_drawn() -> None:
    names = ("two\nlines", "x" * 1_000_000, " ", "ends\r\n")
    one, other = (
        np.asarray(draw_confusion(np.ones((4, 4), dtype=np.int64), classes, title="t"))
        for classes in (names, ("two lines", "x" * 17 + "y" * 2, "", "ends"))
    )
    assert np.array_equal(one, other)
    tile = Tile(pictures=(np.zeros((4, 4, 3), dtype=np.uint8),), lines=names)
    sheet = draw_sheet([tile], title="t")
    plain = Tile(pictures=tile.pictures, lines=("two lines", "x" * 200, " ", "ends"))
    assert np.array_equal(np.asarray(sheet), np.asarray(draw_sheet([plain], title="t")))


def test_the_most_frequent_confusions_come_first_and_right_answers_never() -> None:
    rng = np.random.default_rng(0)
    labels, answers = (values.ravel() for values in np.indices((9, 9)))
    samples = rng.integers(0, 4, 81)
    found = most_frequent(labels, answers, samples, count=20)
    loop = [(-samples[9 * i + j], i, j) for i, j in itertools.product(range(9), range(9)) if i != j]
    assert [(-pair.samples, pair.label, pair.answer) for pair in found] == sorted(loop)[:20]


def test_the_table_of_classes_has_the_worst_first_and_those_without_samples_last() -> None:
    confusion = torch.tensor([[8, 1, 1], [3, 2, 5], [0, 0, 0]])
    report = ClassReport(samples=confusion.sum(dim=1), hits=confusion.diagonal().clone(), confusion=confusion)
    columns, rows = class_table(report, [], ("a", "b", "nobody"))
    assert columns == ["class", "samples", "top1_frac", "most_taken_for"]
    assert rows == [["b", 10, 0.2, "nobody"], ["a", 10, 0.8, "b"], ["nobody", 0, None, None]]


def test_of_very_many_classes_the_table_is_cut_and_asks_the_pairs() -> None:
    samples = torch.full((3000,), 10)
    report = ClassReport(samples=samples, hits=torch.arange(3000) % 11)
    pairs = [Pair(label=11, answer=5, samples=4), Pair(label=11, answer=6, samples=3)]
    _, rows = class_table(report, pairs, tuple(f"class {number}" for number in range(3000)))
    assert len(rows) == 1000
    assert rows[0] == ["class 0", 10, 0.0, None]
    assert rows[1] == ["class 11", 10, 0.0, "class 5"]
    assert [row[2] for row in rows] == sorted(row[2] for row in rows)


def test_of_several_labels_the_table_tells_average_precision() -> None:
    precision = torch.tensor([0.5, torch.nan, 0.25], dtype=torch.float64)
    report = ClassReport(samples=torch.tensor([4, 0, 2]), average_precision=precision)
    columns, rows = class_table(report, [], ("a", "b", "c"))
    assert columns == ["class", "samples", "average_precision_frac"]
    assert rows == [["c", 2, 0.25], ["a", 4, 0.5], ["b", 0, None]]


def test_at_most_five_evaluations_are_drawn_before_the_last_the_first_among_them() -> None:
    for steps_per_epoch, total_steps in itertools.product((1, 7, 195), (1, 6, 7, 8, 50, 1000, 19_500)):
        steps = sorted(drawn_steps(total_steps=total_steps, steps_per_epoch=steps_per_epoch))
        between = [step for step in range(1, total_steps) if step % steps_per_epoch == 0]
        assert set(steps) <= set(between)
        assert len(steps) == min(TIMES_BETWEEN, len(between)) or len(between) > TIMES_BETWEEN
        assert len(steps) <= TIMES_BETWEEN
        assert len(steps) >= min(2, len(between))
        distances = np.diff([0, *steps])
        assert (distances[1:] >= distances[:-1]).all() or steps == between
