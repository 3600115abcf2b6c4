"""The loader: global batches in order, cut for one rank, filled by threads, delivered in order.

    loader = BatchLoader(reader, order, rank=0, world_size=2, first_step=1_234)
    for batch in loader:            # to the end of the epoch that step 1,234 lies in
        batch.images_BHWC           # uint8, valid until two further batches have been asked for

A few threads, no worker process, no copies: reused buffers (pinned, when there is a GPU) go round between the threads
and the consumer. Small batches are filled several at a time: to wake a thread and to share Python's lock with it costs
the consumer of a small model more (0.5 ms on two cores) than to fill 128 images of 32x32 (0.07 ms).

The loader keeps no position of its own: what comes next follows from the number of finished steps.

Axes: B slots of this rank, H height, W width, C channels.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.label_noise import LabelNoise
from pipeline.data.order import Order, Slots, rank_slots
from pipeline.data.reader import Reader, Use
from pipeline.shards.errors import UserError

# Batches the consumer may still be using: the one it works on and the one before.
HELD_BATCHES = 2
# So many small batches, or so many bytes of them, a thread fills at a time.
MAX_TOGETHER, TOGETHER_BYTES = 16, 2 << 20


@dataclass(slots=True, kw_only=True)
class Batch:
    """One rank's share of a micro-batch.

    Attributes:
        images_BHWC: uint8.
        labels_B: int64 (B,), or (B, L) padded with -1 where samples have several.
        weights_B: float32, 1, or 0 for padding.
        positions_B: int64, places in the epoch's order.
        sample_ids: int64 numpy (B,), row numbers in the split.
        epoch, step: of the global batch; `step` counts from the start of training.
        micro: index of the micro-batch in its global batch.
        global_weight: sum of the weights over the whole global batch, all ranks and micro-batches.
        buffer: of the images, its index in the loader.
    """

    images_BHWC: torch.Tensor
    labels_B: torch.Tensor
    weights_B: torch.Tensor
    positions_B: torch.Tensor
    sample_ids: npt.NDArray[np.int64]
    epoch: int
    step: int
    micro: int
    global_weight: float
    buffer: int

    def __len__(self) -> int:
        return len(self.sample_ids)

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on `device`, copied asynchronously where they are pinned."""
        if device.type == "cpu":
            return self
        return dataclasses.replace(
            self,
            images_BHWC=self.images_BHWC.to(device, non_blocking=True),
            labels_B=self.labels_B.to(device, non_blocking=True),
            weights_B=self.weights_B.to(device, non_blocking=True),
            positions_B=self.positions_B.to(device, non_blocking=True),
        )


class BatchLoader:
    """Iterates over the rest of one epoch, from `first_step()` finished steps on.

    Args:
        first_step: returns the number of finished steps when an iteration starts; that is all the state there is.
        micro_slots: slots of this rank in one micro-batch; None for all of a step's at once.
        prefetch: batches, or groups of them, to keep ready ahead of the consumer; as many threads fill them, if torch
            may use so many.
        together: batches in a group, which one thread fills one after the other.
        pin: allocate page-locked memory, for asynchronous copies to a GPU.
        label_noise: replaces labels that were read; None: they stay.
    """

    def __init__(
        self,
        reader: Reader,
        order: Order,
        *,
        rank: int,
        world_size: int,
        first_step: Callable[[], int] = lambda: 0,
        micro_slots: int | None = None,
        prefetch: int = 3,
        together: int = 1,
        pin: bool = False,
        label_noise: LabelNoise | None = None,
    ) -> None:
        self.reader, self.order, self.label_noise = reader, order, label_noise
        self.rank, self.world_size = rank, world_size
        self.first_step = first_step
        self.prefetch, self.together, self.pin = prefetch, together, pin
        step_slots = order.batch_size // world_size
        self.slots = min(micro_slots or step_slots, step_slots)
        self.micro_batches = -(-step_slots // self.slots)
        self.wait_s = 0.0
        self._buffers: list[torch.Tensor] = []
        self._free: list[int] = []
        self._held: deque[int] = deque()
        self._copied: dict[int, torch.cuda.Event] = {}
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        """Micro-batches in a whole epoch, wherever an iteration starts."""
        return self.order.steps_per_epoch * self.micro_batches

    def state_dict(self) -> dict[str, int]:
        """Nothing: the position is the trainer's count of finished steps. Lightning asks, to know we can resume."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to load; see `state_dict`."""

    def get_ready(self, first_step: int) -> None:
        """Let the reader know what will be read from a step on: it may begin to fetch, and says now what cannot work.

        Raises:
            UserError: the order needs more of a remote split at a time than the cache may hold.
        """
        self.reader.start(self._uses(first_step))

    def to_device(self, batch: Batch, device: torch.device) -> Batch:
        """Return a batch of this loader on `device`; its buffer is not filled again before they have left."""
        moved = batch.to(device)
        if device.type == "cuda":
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(device))
            self._copied[batch.buffer] = event
        return moved

    def __iter__(self) -> Iterator[Batch]:
        self.close()
        self._free = [index for index in range(len(self._buffers)) if index not in self._held]
        self._pool = pool = start_threads(min(torch.get_num_threads(), self.prefetch), name="loader")
        first_step = self.first_step()
        self.reader.start(self._uses(first_step))
        parts = self._parts(first_step)
        groups = iter(lambda: [(*part, self._free_buffer()) for part in islice(parts, self.together)], [])
        futures = (pool.submit(self._fill_group, group) for group in groups)
        filled: deque[Batch | BaseException] = deque()
        try:
            in_flight = deque(islice(futures, self.prefetch))
            while in_flight or filled:
                if len(self._held) == HELD_BATCHES:
                    self._free.append(self._held.popleft())
                asked_s = time.perf_counter()
                if not filled:
                    filled.extend(in_flight.popleft().result())
                    in_flight.extend(islice(futures, 1))
                batch = filled.popleft()
                if isinstance(batch, BaseException):
                    raise batch
                self._held.append(batch.buffer)
                if batch.micro == self.micro_batches - 1:
                    self.reader.finish(batch.step)
                self.wait_s += time.perf_counter() - asked_s
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def close(self) -> None:
        """End the threads of an iteration that was left; call it before the reader is closed."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _parts(self, first_step: int) -> Iterator[tuple[int, int, Slots]]:
        """Yield (step, micro-batch, slots) of this rank to the end of the epoch."""
        for step, slots in self._steps(first_step):
            for micro in range(self.micro_batches):
                yield step, micro, slots.cut(micro * self.slots, min((micro + 1) * self.slots, len(slots)))

    def _uses(self, first_step: int) -> Iterator[Use]:
        """Yield what this rank reads in each step to the end of the epoch."""
        for step, slots in self._steps(first_step):
            yield step, slots.sample_ids

    def _steps(self, first_step: int) -> Iterator[tuple[int, Slots]]:
        epoch, first = divmod(first_step, self.order.steps_per_epoch)
        steps = rank_slots(self.order, epoch=epoch, first_step=first, rank=self.rank, world_size=self.world_size)
        return enumerate(steps, start=first_step)

    def _fill_group(self, group: list[tuple[int, int, Slots, int]]) -> list[Batch | BaseException]:
        """Return the batches of (step, micro-batch, slots, buffer), up to the first that fails, and its error."""
        filled: list[Batch | BaseException] = []
        try:
            for step, micro, slots, buffer in group:
                filled.append(self._fill(step, micro, slots, buffer))
        except BaseException as error:
            filled.append(error)
        return filled

    def _fill(self, step: int, micro: int, slots: Slots, buffer: int) -> Batch:
        """Gather a batch into a buffer, once the buffer's earlier content has left for the device."""
        if copied := self._copied.pop(buffer, None):
            copied.synchronize()
        images_BHWC = self._buffers[buffer][: len(slots)]
        epoch, step_of_epoch = divmod(step, self.order.steps_per_epoch)
        try:
            labels = self.reader.fill(slots, epoch=epoch, out=images_BHWC)
        except UserError as error:
            error.of_one_rank = True
            raise
        if self.label_noise is not None:
            labels = self.label_noise.applied(slots.sample_ids, labels)
        return Batch(
            images_BHWC=images_BHWC,
            labels_B=torch.from_numpy(labels),
            weights_B=torch.from_numpy(slots.weights),
            positions_B=torch.from_numpy(slots.positions),
            sample_ids=slots.sample_ids,
            epoch=epoch,
            step=step,
            micro=micro,
            global_weight=float(self.order.global_weight(step=step_of_epoch)),
            buffer=buffer,
        )

    def _free_buffer(self) -> int:
        """Return a buffer to fill; there are never more than `num_buffers`."""
        if not self._free:
            shape = (self.slots, *self.reader.image_shape)
            with torch.inference_mode(False):  # the threads that fill it are in no inference mode
                self._buffers.append(torch.empty(shape, dtype=torch.uint8, pin_memory=self.pin))
            return len(self._buffers) - 1
        return self._free.pop()


def worth_together(batch_bytes: int) -> int:
    """Return how many batches of so many bytes, that need but copying, a thread should fill at a time."""
    return max(1, min(MAX_TOGETHER, TOGETHER_BYTES // batch_bytes))


def num_buffers(*, prefetch: int, together: int = 1) -> int:
    """Return how many batches a loader holds memory for, once it is under way: ready, being used, and taken over."""
    return (prefetch + 1) * together - 1 + HELD_BATCHES


def start_threads(num_threads: int, *, name: str) -> ThreadPoolExecutor:
    """Start threads in each of which torch uses that one alone.

    Where a second thread has a team of OpenMP's too, both teams sleep after each operation instead of spinning: on 2
    cores the default model's step took 43 ms so and 31 ms like this. `set_num_threads` holds for its thread, but
    also for those that use torch for the first time later, so that part is put back.
    """
    num_torch_threads = torch.get_num_threads()
    all_started = threading.Barrier(num_threads)

    def start(_: int) -> None:
        torch.get_num_threads()  # the first use of torch in a thread sets its number; have that over
        torch.set_num_threads(1)
        all_started.wait()

    pool = ThreadPoolExecutor(num_threads, thread_name_prefix=name)
    list(pool.map(start, range(num_threads)))
    torch.set_num_threads(num_torch_threads)
    return pool
