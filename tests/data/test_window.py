"""The window order, against lists made the slow way as docs/ORDER.md specifies it, and the promises made there."""

from __future__ import annotations

import hashlib
import itertools
import re
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.order import Order, Slots, rank_slots
from pipeline.data.window import WindowOrder
from pipeline.shards.errors import UserError
from pipeline.shards.permutation import permute, permute_runs
from tiny_data import ROOT

GOLDEN_BATCHES = [[11, 10, 9, 7], [0, 1, 12, 6], [8, 14, 13, 2]]
GOLDEN_IDS = [2367, 2606, 55, 464, 630, 894, 1572, 1818]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Arguments of a WindowOrder."""

    shard_counts: tuple[int, ...]
    batch_size: int
    seed: int
    lanes: int
    window_chunks: int
    chunk_samples: int | None

    @property
    def order(self) -> WindowOrder:
        return WindowOrder(
            shard_counts=self.shard_counts,
            batch_size=self.batch_size,
            seed=self.seed,
            lanes=self.lanes,
            window_chunks=self.window_chunks,
            chunk_samples=self.chunk_samples,
        )


@st.composite
def options(draw: st.DrawFn) -> Options:
    lanes = draw(st.integers(1, 6))
    counts = draw(st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any))
    return Options(
        shard_counts=tuple(counts),
        batch_size=lanes * draw(st.integers(1, 12)),
        seed=draw(st.integers(0, 2**63)),
        lanes=lanes,
        window_chunks=draw(st.integers(1, 5)),
        chunk_samples=draw(st.none() | st.integers(1, 40)),
    )


def spec_key(*parts: int | str) -> int:
    """make_key of docs/ORDER.md, written from its text."""
    spelling = b"\x1f".join(f"{'str' if isinstance(part, str) else 'int'}:{part}".encode() for part in parts)
    return int.from_bytes(hashlib.blake2b(spelling, digest_size=8).digest(), "little")


def spec_permute(key: int, place: int, length: int) -> int:
    """permute of docs/ORDER.md, written from its text, in Python's own integers."""
    mask, first, second = 2**64 - 1, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

    def mix(x: int) -> int:
        x = (x ^ x >> 30) * first & mask
        x = (x ^ x >> 27) * second & mask
        return x ^ x >> 31

    def hashed(x: int, k: int) -> int:
        x = (x ^ k) * first & mask
        return (x ^ x >> 32) * second & mask

    keys = [mix(mix((c * 0x9E3779B97F4A7C15 + key) & mask) + key & mask) for c in range(6)]
    bits = max(8, (length - 1).bit_length())
    h = bits // 2
    l = bits - h  # noqa: E741 as the specification has it
    while True:
        low, high = place % 2**l, place >> l
        for i in (0, 2, 4):
            high ^= hashed(low, keys[i]) >> (64 - h)
            low ^= hashed(high, keys[i + 1]) >> (64 - l)
        place = high << l | low
        if place < length:
            return place


def shuffled(values: list, key: int) -> list:
    """Return `values` as a keyed permutation has them: place p holds value permute(p)."""
    return [values[spec_permute(key, place, len(values))] for place in range(len(values))]


def split_chunks(o: Options) -> list[list[int]]:
    """Return the split's chunks as lists of sample ids."""
    chunks, first = [], 0
    for count in o.shard_counts:
        ids = list(range(first, first + count))
        size = o.chunk_samples or max(1, count)
        chunks += [ids[start : start + size] for start in range(0, count, size)]
        first += count
    return chunks


def oracle_lanes(o: Options, epoch: int) -> list[list[list[list[int]]]]:
    """Return [lane][window][part of a chunk] as lists of sample ids, before the windows are shuffled."""
    num_samples = sum(o.shard_counts)
    places_per_lane = max(1, num_samples // o.batch_size) * o.batch_size // o.lanes
    lanes: list[list[list[int]]] = [[] for _ in range(o.lanes)]
    place = 0
    for chunk in shuffled(split_chunks(o), spec_key("window", o.seed, epoch)):
        parts: dict[int, list[int]] = {}
        for sample in chunk:
            parts.setdefault(min(place // places_per_lane, o.lanes - 1), []).append(sample)
            place += 1
        for lane, part in parts.items():
            lanes[lane].append(part)
    windowed = []
    for lane, parts_of_lane in enumerate(lanes):
        first_window = o.window_chunks - lane * o.window_chunks // o.lanes
        cuts = [0, *range(first_window, len(parts_of_lane), o.window_chunks), len(parts_of_lane)]
        windowed.append([parts_of_lane[a:b] for a, b in itertools.pairwise(cuts)])
    return windowed


def oracle_batches(o: Options, epoch: int) -> list[list[int]]:
    """Return the epoch's global batches; places of a padded batch that hold no sample are left out."""
    sequences = []
    for lane, windows in enumerate(oracle_lanes(o, epoch)):
        sequences.append([])
        for number, window in enumerate(windows):
            key = spec_key("window", o.seed, epoch, lane, number)
            sequences[-1] += shuffled([sample for part in window for sample in part], key)
    share = o.batch_size // o.lanes
    steps = max(1, sum(o.shard_counts) // o.batch_size)
    return [[s for seq in sequences for s in seq[t * share : (t + 1) * share]] for t in range(steps)]


def epoch_ids(order: Order, epoch: int) -> list[int]:
    positions = np.arange(order.steps_per_epoch * order.batch_size)
    slots = order.slots_at(epoch=epoch, positions=positions)
    return slots.sample_ids[slots.weights > 0].tolist()


def slots_of_lane(order: WindowOrder, epoch: int, lane: int) -> Slots:
    share = order.batch_size // order.lanes
    slots = np.arange(lane * share, (lane + 1) * share)
    positions = np.arange(order.steps_per_epoch)[:, None] * order.batch_size + slots
    return order.slots_at(epoch=epoch, positions=positions.ravel())


@given(
    runs=st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(1, 2**40), st.integers(1, 5), st.randoms()), max_size=8
    )
)
@settings(max_examples=100, deadline=None)
def test_runs_are_permuted_as_each_alone(runs: list[tuple[int, int, int, Random]]) -> None:
    positions = [np.array([random.randrange(length) for _ in range(n)]) for _, length, n, random in runs]
    found = permute_runs(
        [key for key, _, _, _ in runs],
        np.concatenate([np.empty(0, dtype=np.int64), *positions]),
        lengths=[length for _, length, _, _ in runs],
        counts=[n for _, _, n, _ in runs],
    )
    expected = [permute(run[0], p, length=run[1]).tolist() for run, p in zip(runs, positions, strict=True)]
    assert found.tolist() == [value for values in expected for value in values]


@given(o=options(), epoch=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_batches_are_those_made_the_slow_way(o: Options, epoch: int) -> None:
    order = o.order
    expected = oracle_batches(o, epoch)
    assert order.steps_per_epoch == len(expected)
    whole = order.slots_at(epoch=epoch, positions=np.arange(len(expected) * o.batch_size))
    for step, ids in enumerate(expected):
        slots = whole.cut(step * o.batch_size, (step + 1) * o.batch_size)
        assert slots.sample_ids[slots.weights > 0].tolist() == ids
        assert slots.weights.sum() == order.global_weight(step=step) == len(ids)
        assert slots.positions.tolist() == list(range(step * o.batch_size, (step + 1) * o.batch_size))


@given(o=options(), epoch=st.integers(0, 3))
@settings(max_examples=100, deadline=None)
@pytest.mark.slow
def test_no_sample_occurs_twice_and_only_the_rest_is_dropped(o: Options, epoch: int) -> None:
    num_samples = sum(o.shard_counts)
    ids = epoch_ids(o.order, epoch)
    dropped = num_samples % o.batch_size if num_samples >= o.batch_size else 0
    assert len(ids) == num_samples - dropped == len(set(ids))
    assert o.order.num_dropped == dropped
    assert set(ids) <= set(range(num_samples))


@given(o=options(), data=st.data())
@settings(max_examples=100, deadline=None)
@pytest.mark.slow
def test_slots_of_any_positions_are_those_of_the_whole_epoch(o: Options, data: st.DataObject) -> None:
    order = o.order
    num_positions = order.steps_per_epoch * o.batch_size
    positions = np.array(data.draw(st.lists(st.integers(0, num_positions - 1), max_size=30)), dtype=np.int64)
    whole = order.slots_at(epoch=1, positions=np.arange(num_positions))
    found = order.slots_at(epoch=1, positions=positions)
    assert found.sample_ids.tolist() == whole.sample_ids[positions].tolist()
    assert found.weights.tolist() == whole.weights[positions].tolist()


@given(o=options(), epoch=st.integers(0, 2))
@settings(max_examples=40, deadline=None)
@pytest.mark.slow
def test_a_lane_reads_its_chunks_alone_and_at_most_a_windows_worth_at_a_time(o: Options, epoch: int) -> None:
    order = o.order
    runs = {sample: number for number, chunk in enumerate(split_chunks(o)) for sample in chunk}
    for lane, windows in enumerate(oracle_lanes(o, epoch)):
        chunks = order.lane_chunks(epoch=epoch, lane=lane)
        told = [list(range(first, first + n)) for first, n in zip(chunks.first_ids, chunks.counts, strict=True)]
        assert told == [part for window in windows for part in window]
        assert chunks.windows.tolist() == [number for number, window in enumerate(windows) for _ in window]
        window_of = {sample: w for ids, w in zip(told, chunks.windows.tolist(), strict=True) for sample in ids}
        slots = slots_of_lane(order, epoch, lane)
        read = slots.sample_ids[slots.weights > 0].tolist()
        assert set(read) <= set(window_of)
        passed = [window_of[sample] for sample in read]
        assert passed == sorted(passed)
        for window in set(passed):
            assert len({runs[s] for s in read if window_of[s] == window}) <= o.window_chunks


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 8, 12, 24])
def test_global_batches_do_not_depend_on_the_number_of_ranks(world_size: int) -> None:
    order = WindowOrder(shard_counts=[37] * 20, batch_size=24, seed=3, lanes=4, window_chunks=2)
    ranks = [
        list(rank_slots(order, epoch=2, first_step=5, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    for step in range(5, order.steps_per_epoch):
        parts = [slots[step - 5].sample_ids for slots in ranks]
        assert np.concatenate(parts).tolist() == order.global_batch(epoch=2, step=step).sample_ids.tolist()


@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
def test_hosts_read_disjoint_shards_but_for_those_on_borders_of_lanes(hosts: int) -> None:
    order = WindowOrder(shard_counts=[50] * 64, batch_size=64, seed=3, lanes=8, window_chunks=2)
    shards = [
        {int(i) // 50 for slots in rank_slots(order, epoch=1, first_step=0, rank=host, world_size=hosts)
         for i in slots.sample_ids}
        for host in range(hosts)
    ]  # fmt: skip
    assert len(set.union(*shards)) == 64
    assert sum(map(len, shards)) <= 64 + hosts - 1


def test_restored_at_every_position_the_whole_tail_is_equal() -> None:
    def fresh() -> WindowOrder:
        return WindowOrder(shard_counts=[9, 4, 0, 13, 27], batch_size=6, seed=9, lanes=3, window_chunks=2)

    steps = fresh().steps_per_epoch
    told = [fresh().global_batch(epoch=n // steps, step=n % steps).sample_ids.tolist() for n in range(2 * steps)]
    for position in range(2 * steps):
        order = fresh()
        tail = [order.global_batch(epoch=n // steps, step=n % steps) for n in range(position, 2 * steps)]
        assert [slots.sample_ids.tolist() for slots in tail] == told[position:]


def test_golden_order() -> None:
    """Resumed runs and docs/ORDER.md rely on these very numbers; a change is a new format of the order."""
    order = WindowOrder(shard_counts=[4, 0, 6, 5], batch_size=4, seed=7, lanes=2, window_chunks=2, chunk_samples=2)
    assert [order.global_batch(epoch=1, step=s).sample_ids.tolist() for s in range(3)] == GOLDEN_BATCHES
    larger = WindowOrder(shard_counts=[1000, 700, 300, 1000], batch_size=64, seed=1, lanes=8, window_chunks=3)
    assert larger.global_batch(epoch=5, step=20).sample_ids[::8].tolist() == GOLDEN_IDS


def test_the_worked_example_of_the_specification_is_what_the_code_gives() -> None:
    text = (ROOT / "docs" / "ORDER.md").read_text()
    told = dict(re.findall(r"^    (chunks|tape|(?:lane|taken|step) \d) +(\d.*)$", text, re.MULTILINE))
    o = Options(shard_counts=(4, 0, 6, 5), batch_size=4, seed=7, lanes=2, window_chunks=2, chunk_samples=2)
    assert numbers(told["chunks"]) == [split_chunks(o)]
    assert numbers(told["tape"]) == [shuffled(split_chunks(o), spec_key("window", 7, 1))]
    for lane, windows in enumerate(oracle_lanes(o, 1)):
        assert numbers(told[f"lane {lane}"]) == windows
        chunks = o.order.lane_chunks(epoch=1, lane=lane)
        parts = [part for window in windows for part in window]
        assert chunks.first_ids.tolist() == [part[0] for part in parts]
        assert chunks.counts.tolist() == [len(part) for part in parts]
        taken = [sample for window in numbers(told[f"taken {lane}"]) for sample in window[0]]
        steps = [step[2 * lane : 2 * lane + 2] for step in GOLDEN_BATCHES]
        assert taken[:6] == [sample for step in steps for sample in step]
    assert [numbers(told[f"step {step}"])[0][0] for step in range(3)] == GOLDEN_BATCHES


def numbers(text: str) -> list[list[list[int]]]:
    """Return the windows || of chunks | of numbers that a line of the worked example has."""
    return [[[int(word) for word in part.split()] for part in window.split("|")] for window in text.split("||")]


def test_another_seed_or_epoch_is_another_order() -> None:
    orders = {
        tuple(epoch_ids(WindowOrder(shard_counts=[8] * 16, batch_size=8, seed=seed, lanes=4), epoch))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


@pytest.mark.parametrize("chunk_samples", [None, 10])
def test_orders_of_different_epochs_and_seeds_agree_no_more_than_by_chance(chunk_samples: int | None) -> None:
    """Places that hold the same sample in two orders: about one, as of two random permutations."""
    counts = [100] * 40
    orders = [WindowOrder(shard_counts=counts, batch_size=16, seed=s, chunk_samples=chunk_samples) for s in range(5)]
    ids = [np.array(epoch_ids(order, epoch)) for order in orders for epoch in range(5)]
    same = [(a == b).sum() for i, a in enumerate(ids) for b in ids[:i]]
    assert np.mean(same) == pytest.approx(1, abs=0.3)


def test_each_sample_is_dropped_about_equally_often() -> None:
    """Also those in the middle of a shard: chi-square over 150 epochs against its 1-in-10,000 limit."""
    order = WindowOrder(shard_counts=[10] * 10, batch_size=16, seed=2, lanes=2, window_chunks=3)
    dropped = Counter(sample for epoch in range(150) for sample in set(range(100)) - set(epoch_ids(order, epoch)))
    place_in_shard = Counter[int]()
    for sample, times in dropped.items():
        place_in_shard[sample % 10] += times
    expected = 150 * 4 / 10
    assert sum((place_in_shard[place] - expected) ** 2 / expected for place in range(10)) < 33.7


def test_a_billion_samples_in_fifty_thousand_shards_cost_under_a_megabyte(
    record_property: Callable[[str, object], None],
) -> None:
    counts = np.full(50_000, 20_000)
    tracemalloc.start()
    begin = time.perf_counter()
    order = WindowOrder(shard_counts=counts, batch_size=1024, seed=1)
    ids = order.global_batch(epoch=3, step=900_000).sample_ids
    record_property("first_batch_s", time.perf_counter() - begin)
    kept_bytes, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(ids.tolist())) == 1024
    assert kept_bytes < 1_000_000
    assert peak_bytes < 10_000_000


def test_threads_at_different_epochs_get_what_one_thread_gets() -> None:
    counts = [13] * 50
    expected = {epoch: epoch_ids(WindowOrder(shard_counts=counts, batch_size=8, seed=4), epoch) for epoch in range(6)}
    order = WindowOrder(shard_counts=counts, batch_size=8, seed=4)
    wrong: list[int] = []

    def ask(first: int) -> None:
        for number in range(30):
            epoch = (first + number * 5) % 6
            if epoch_ids(order, epoch) != expected[epoch]:
                wrong.append(epoch)

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"lanes": 8, "batch_size": 100},
            "does not divide batch.size=100: try order.lanes=5 or 10, or batch.size=96 or 104",
        ),
        (
            {"lanes": 8, "batch_size": 7},
            "order.lanes=8 does not divide batch.size=7: try order.lanes=7, or batch.size=8",
        ),
        ({"lanes": 0}, "order.lanes=0: at least 1"),
        ({"window_chunks": 0}, "order.window_chunks=0: at least 1"),
        ({"chunk_samples": 0}, "order.chunk_samples=0: at least 1"),
        ({"batch_size": 0}, "batch.size=0: at least 1"),
        ({"shard_counts": [0, 0]}, "no samples"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(changed: dict[str, int], told: str) -> None:
    arguments = {"shard_counts": [10, 10], "batch_size": 8, "seed": 0, **changed}
    with pytest.raises(UserError, match=told):
        WindowOrder(**arguments)  # type: ignore[arg-type]


def test_a_step_outside_the_epoch_is_refused() -> None:
    with pytest.raises(IndexError, match="step 2 is outside an epoch of 2"):
        WindowOrder(shard_counts=[10], batch_size=5, seed=0, lanes=1).global_batch(epoch=0, step=2)
