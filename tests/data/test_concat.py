"""Several splits read as one, and mixed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.concat import ConcatReader
from pipeline.data.counting import counters_of
from pipeline.data.loader import BatchLoader
from pipeline.data.mixture import MixtureOrder, member_seed
from pipeline.data.order import FullOrder, Slots, slots_of
from pipeline.data.packed import PackedReader
from pipeline.data.reader import Int64Array, Reader, Use
from pipeline.shards.errors import UserError
from pipeline.shards.record import PackedLayout
from tiny_data import write_packed_set

SIZES = {"a": [5, 7], "b": [4], "c": [6, 3]}
LAYOUT = PackedLayout(height=4, width=5, channels=3)


class Watched:
    """A reader that keeps what it is told, and looks ahead when asked."""

    def __init__(self, reader: PackedReader) -> None:
        self.data_set, self.split = reader.data_set, reader.split
        self.num_samples, self.image_shape = reader.num_samples, reader.image_shape
        self.finished: list[int] = []
        self.uses: Iterator[Use] = iter(())

    def start(self, uses: Iterator[Use]) -> None:
        self.uses = uses

    def fill(self, slots: Slots, *, epoch: int, out: torch.Tensor) -> Int64Array:
        out[:] = epoch
        return np.stack([slots.sample_ids, slots.positions], axis=1)[:, : 1 + (self.num_samples > 10)]

    def finish(self, step: int) -> None:
        self.finished.append(step)

    def counters(self) -> dict[str, float]:
        return {"read_bytes": float(self.num_samples)}

    def close(self) -> None:
        self.finished.append(-1)


@pytest.fixture
def members(tmp_path: Path) -> list[PackedReader]:
    return [
        PackedReader(write_packed_set(tmp_path / name, shard_sizes={"train": sizes}, layout=LAYOUT), "train")
        for name, sizes in SIZES.items()
    ]


def read(reader: Reader, ids: Int64Array) -> tuple[torch.Tensor, Int64Array]:
    out = torch.empty((len(ids), *reader.image_shape), dtype=torch.uint8)
    return out, reader.fill(slots_of(ids), epoch=0, out=out)


def test_a_batch_of_several_splits_is_what_each_gives(members: list[PackedReader]) -> None:
    parts = [read(member, np.arange(member.num_samples)) for member in members]
    images, labels = torch.cat([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    reader = ConcatReader(members)
    assert reader.num_samples == len(labels) == 25
    assert [shard.num_samples for shard in reader.split.shards] == [5, 7, 4, 6, 3]
    for ids in (np.random.default_rng(0).permutation(25), np.array([13, 12, 13]), np.array([0, 24])):
        found_images, found_labels = read(reader, ids)
        assert torch.equal(found_images, images[torch.from_numpy(ids)])
        assert found_labels.tolist() == labels[ids].tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_mixture_comes_out_of_the_loader_whole_for_any_number_of_ranks(
    members: list[PackedReader], world_size: int
) -> None:
    reader = ConcatReader(members)
    sizes = [member.num_samples for member in members]
    orders = [FullOrder(num_samples=n, batch_size=1, seed=member_seed(3, k)) for k, n in enumerate(sizes)]
    order = MixtureOrder(orders=orders, num_samples=sizes, weights=[1, 2, 1], batch_size=6)
    expected = [order.global_batch(epoch=2, step=step).sample_ids for step in range(order.steps_per_epoch)]
    for rank in range(world_size):
        share = slice(rank * 6 // world_size, (rank + 1) * 6 // world_size)
        loader = BatchLoader(
            reader, order, rank=rank, world_size=world_size, first_step=lambda: 2 * order.steps_per_epoch
        )
        for batch, ids in zip(loader, expected, strict=True):
            images, labels = read(reader, ids[share])
            assert batch.sample_ids.tolist() == ids[share].tolist()
            assert torch.equal(batch.images_BHWC, images)
            assert batch.labels_B.tolist() == labels.tolist()


def test_labels_of_different_widths_are_padded_and_counts_added(members: list[PackedReader]) -> None:
    reader = ConcatReader([Watched(member) for member in members])
    out = torch.empty((3, *reader.image_shape), dtype=torch.uint8)
    slots = Slots(sample_ids=np.array([14, 3, 24]), positions=np.array([7, 8, 9]), weights=np.ones(3, np.float32))
    assert reader.fill(slots, epoch=6, out=out).tolist() == [[2, -1], [3, 8], [8, -1]]
    assert (out == 6).all()
    assert counters_of(reader) == {"read_bytes": 25.0}


def test_each_member_is_told_of_its_own_uses_however_far_another_looks(members: list[PackedReader]) -> None:
    watched = [Watched(member) for member in members]
    reader = ConcatReader(watched)
    steps = [(step, np.random.default_rng(step).integers(0, 25, 9)) for step in range(10, 60)]
    bounds = [0, 12, 16, 25]

    def expected(number: int) -> list[tuple[int, list[int]]]:
        own = [
            (step, [int(i) - bounds[number] for i in ids if bounds[number] <= i < bounds[number + 1]])
            for step, ids in steps
        ]
        return [(step, ids) for step, ids in own if ids]  # fmt: skip

    reader.start(iter(steps))
    found: dict[int, list[tuple[int, list[int]]]] = {}

    def look(number: int) -> None:
        found[number] = [(step, ids.tolist()) for step, ids in watched[number].uses]

    threads = [threading.Thread(target=look, args=(number,)) for number in (0, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: expected(0), 2: expected(2)}
    # The second has not looked yet; of finished steps it need not hear any more.
    reader.finish(29)
    look(1)
    assert found[1] == [(step, ids) for step, ids in expected(1) if step > 29]
    reader.close()
    assert [member.finished for member in watched] == [[29, -1]] * 3


def test_what_does_not_go_together_is_refused(members: list[PackedReader], tmp_path: Path) -> None:
    grey = PackedLayout(height=4, width=5, channels=1)
    other = PackedReader(write_packed_set(tmp_path / "grey", shard_sizes={"train": [3]}, layout=grey), "train")
    with pytest.raises(UserError, match=r"grey does not mix with .*: images of \(4, 5, 1\), \(4, 5, 3\) wanted"):
        ConcatReader([members[0], other])
