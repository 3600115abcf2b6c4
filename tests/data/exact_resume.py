"""What "exactly resumable" means, in one function for every way to read and to order.

    assert_resumes_exactly(lambda shape: (PackedReader(data_set, "train"), order))

A run is left in the middle of every step, with batches in flight, and goes on in another shape: another number of
ranks, of threads and of micro-batches. The ids, positions, labels and pixels of all its steps must be those of a run
that was never disturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.loader import Batch, BatchLoader
from pipeline.data.order import Order
from pipeline.data.reader import Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What may change between a run and its going on."""

    world_size: int
    prefetch: int
    micro_slots: int | None
    threads: int


UNDISTURBED = Shape(world_size=1, prefetch=3, micro_slots=None, threads=1)
# They divide batches of 12 slots.
SHAPES = (
    Shape(world_size=2, prefetch=1, micro_slots=1, threads=2),
    Shape(world_size=1, prefetch=5, micro_slots=5, threads=3),
    Shape(world_size=3, prefetch=2, micro_slots=None, threads=1),
    Shape(world_size=6, prefetch=4, micro_slots=1, threads=2),
    Shape(world_size=4, prefetch=3, micro_slots=2, threads=3),
)

# Opens one rank's reader and the order.
Open = Callable[[Shape], tuple[Reader, Order]]
Array = npt.NDArray[np.int64] | npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A global batch as the ranks together received it."""

    step: int
    columns: dict[str, Array]

    def assert_equals(self, other: Step) -> None:
        assert self.step == other.step
        for name, value in self.columns.items():
            assert np.array_equal(value, other.columns[name]), f"step {self.step}: other {name}"


def assert_resumes_exactly(open_rank: Open, *, epochs: int = 2, shapes: Sequence[Shape] = SHAPES) -> None:
    """Assert that a run may be left in every step, and in any shape go on as if it had not been."""
    whole = list(_steps(open_rank, UNDISTURBED, first_step=0, epochs=epochs))
    assert len({tuple(step.columns["ids"]) for step in whole}) == len(whole), "all steps are alike: nothing is shown"
    for left_after in range(len(whole)):
        before, after = (shapes[(left_after + number) % len(shapes)] for number in (0, 1))
        found = []
        for step in _steps(open_rank, before, first_step=0, epochs=epochs):
            if step.step == left_after:
                break
            found.append(step)
        found += _steps(open_rank, after, first_step=left_after, epochs=epochs)
        assert len(found) == len(whole)
        for step, expected in zip(found, whole, strict=True):
            step.assert_equals(expected)


def _steps(open_rank: Open, shape: Shape, *, first_step: int, epochs: int) -> Iterator[Step]:
    """Yield the steps from `first_step` to the end of the last epoch, gathered from all ranks."""
    with _opened(open_rank, shape, first_step) as (loaders, finished):
        total = epochs * loaders[0].order.steps_per_epoch
        while finished[0] < total:
            iterators = [iter(loader) for loader in loaders]
            while parts := [next(iterator, None) for iterator in iterators]:
                if None in parts:
                    assert parts == [None] * len(parts), "ranks take other numbers of steps"
                    break
                ranks = [[_columns(part)] for part in parts if part is not None]
                for iterator, columns, loader in zip(iterators, ranks, loaders, strict=True):
                    columns += [_columns(next(iterator)) for _ in range(loader.micro_batches - 1)]
                gathered = [part for columns in ranks for part in columns]
                step = finished[0]
                assert all((part.pop("step") == step).all() for part in gathered)
                yield Step(
                    step=step,
                    columns={name: np.concatenate([part[name] for part in gathered]) for name in gathered[-1]},
                )
                finished[0] += 1


def _columns(batch: Batch) -> dict[str, Array]:
    """Return copies of what a batch holds, as its buffer will be filled again."""
    return {
        "step": np.array([batch.step]),
        "ids": batch.sample_ids.copy(),
        "positions": batch.positions_B.numpy().copy(),
        "labels": batch.labels_B.numpy().copy(),
        "weights": batch.weights_B.numpy().astype(np.int64),
        "images": batch.images_BHWC.numpy().copy(),
    }


@contextmanager
def _opened(open_rank: Open, shape: Shape, first_step: int) -> Iterator[tuple[list[BatchLoader], list[int]]]:
    """Open all ranks' loaders; the second value holds the number of finished steps, as the trainer would."""
    finished = [first_step]
    loaders: list[BatchLoader] = []
    try:
        for rank in range(shape.world_size):
            reader, order = open_rank(shape)
            loaders.append(
                BatchLoader(
                    reader,
                    order,
                    rank=rank,
                    world_size=shape.world_size,
                    first_step=lambda: finished[0],
                    micro_slots=shape.micro_slots,
                    prefetch=shape.prefetch,
                )
            )
        yield loaders, finished
    finally:
        for loader in loaders:
            loader.close()
            loader.reader.close()
