"""Shuffle quality, against closed forms."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.data.order import FullOrder, SequentialOrder
from pipeline.data.shuffle_quality import ShuffleQuality, shuffle_quality
from pipeline.data.window import WindowOrder

COUNTS = [1000] * 50
# Stored class by class, five classes: a shard holds one label.
LABELS = np.repeat(np.arange(5), 10_000)


def quality_of_window(**options: int) -> ShuffleQuality:
    order = WindowOrder(shard_counts=COUNTS, batch_size=200, seed=3, **options)  # type: ignore[arg-type]
    return shuffle_quality(order, shard_counts=COUNTS, labels_of=LABELS.take)


def test_a_full_shuffle_is_ideal_in_each_measure() -> None:
    order = FullOrder(num_samples=50_000, batch_size=200, seed=3)
    quality = shuffle_quality(order, shard_counts=COUNTS, labels_of=LABELS.take)
    assert quality.neighbour_distance_frac.of_ideal == pytest.approx(1, rel=0.02)
    assert quality.same_shard_pairs_frac.of_ideal == pytest.approx(1, rel=0.02)
    assert quality.label_run is not None
    assert quality.label_run.of_ideal == pytest.approx(1, rel=0.02)
    # Five equal classes: the next label is the same in one case of five.
    assert quality.label_run.ideal == pytest.approx(1 / (1 - 0.2 * 199 / 200), rel=0.01)
    assert quality.same_shard_pairs_frac.ideal == pytest.approx(999 / 49_999)


def test_the_stored_order_is_the_worst_in_each_measure() -> None:
    order = SequentialOrder(num_samples=50_000, batch_size=200)
    quality = shuffle_quality(order, shard_counts=COUNTS, labels_of=LABELS.take)
    assert quality.neighbour_distance_frac.found == 1 / 50_000
    assert quality.same_shard_pairs_frac.found == 1
    assert quality.label_run is not None
    assert quality.label_run.found == 200


@pytest.mark.parametrize(("lanes", "window_chunks"), [(4, 2), (8, 1), (2, 5)])
def test_a_windows_measures_follow_from_its_size(lanes: int, window_chunks: int) -> None:
    quality = quality_of_window(lanes=lanes, window_chunks=window_chunks)
    # Neighbours are mixed over lanes * window_chunks of the fifty shards, pairs fall into one of as many; borders of
    # lanes, staggered first windows and the windows between two batches' halves make it vary.
    open_shards = lanes * window_chunks
    assert quality.neighbour_distance_frac.of_ideal == pytest.approx(open_shards / 50, rel=0.2)
    assert quality.same_shard_pairs_frac.found == pytest.approx(1 / open_shards, rel=0.25)


def test_more_open_chunks_shuffle_better() -> None:
    few, many = quality_of_window(lanes=2, window_chunks=1), quality_of_window(lanes=4, window_chunks=5)
    assert few.neighbour_distance_frac.of_ideal < many.neighbour_distance_frac.of_ideal < 1
    assert few.same_shard_pairs_frac.of_ideal > many.same_shard_pairs_frac.of_ideal > 1
    assert few.label_run is not None
    assert many.label_run is not None
    assert few.label_run.of_ideal > many.label_run.of_ideal > 1


def test_on_a_part_of_the_epoch_the_measures_are_about_the_same() -> None:
    order = WindowOrder(shard_counts=COUNTS, batch_size=200, seed=3, lanes=4, window_chunks=2)
    whole, part = (
        shuffle_quality(order, shard_counts=COUNTS, labels_of=LABELS.take, max_samples=most) for most in (50_000, 5_000)
    )
    assert part.neighbour_distance_frac.found == pytest.approx(whole.neighbour_distance_frac.found, rel=0.15)
    assert part.same_shard_pairs_frac.found == pytest.approx(whole.same_shard_pairs_frac.found, rel=0.25)


def test_a_billion_samples_are_measured(record_property: Callable[[str, object], None]) -> None:
    counts = np.full(50_000, 20_000)
    order = WindowOrder(shard_counts=counts, batch_size=1024, seed=3)
    begin = time.perf_counter()
    quality = shuffle_quality(order, shard_counts=counts, max_samples=1 << 16)
    record_property("quality_s", time.perf_counter() - begin)
    # 8 lanes of 4 of the 50,000 shards.
    assert quality.neighbour_distance_frac.of_ideal == pytest.approx(32 / 50_000, rel=0.25)
    assert quality.same_shard_pairs_frac.found == pytest.approx(1 / 32, rel=0.25)
    assert quality.label_run is None


def test_one_sample_and_padding_are_no_trouble() -> None:
    order = FullOrder(num_samples=1, batch_size=4, seed=0)
    quality = shuffle_quality(order, shard_counts=[1], labels_of=np.zeros(1, int).take)
    assert quality.same_shard_pairs_frac.of_ideal == 1
    assert quality.label_run is not None
    assert quality.label_run.found == 1
