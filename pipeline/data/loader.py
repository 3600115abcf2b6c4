"""The loader: global batches in order, cut for one rank, filled by a background thread, delivered in order.

    loader = BatchLoader(reader, order, rank=0, world_size=2, first_step=1_234)
    for batch in loader:            # to the end of the epoch that step 1,234 lies in
        batch.images_BHWC           # uint8, valid until two further batches have been asked for

One thread, no worker process, no copies: a few reused (pinned, when there is a GPU) buffers go round between the
thread and the consumer. The loader keeps no position of its own: what comes next follows from the number of finished
steps.

Axes: B slots of this rank, H height, W width, C channels.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.order import Order, rank_slots
from pipeline.data.reader import PackedReader

# Batches the consumer may still be using: the one it works on and the one before.
HELD_BATCHES = 2


@dataclass(slots=True, kw_only=True)
class Batch:
    """One rank's share of a micro-batch.

    Attributes:
        images_BHWC: uint8.
        labels_B: int64.
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
        prefetch: batches to keep ready ahead of the consumer.
        pin: allocate page-locked memory, for asynchronous copies to a GPU.
    """

    def __init__(
        self,
        reader: PackedReader,
        order: Order,
        *,
        rank: int,
        world_size: int,
        first_step: Callable[[], int] = lambda: 0,
        micro_slots: int | None = None,
        prefetch: int = 3,
        pin: bool = False,
    ) -> None:
        self.reader, self.order = reader, order
        self.rank, self.world_size = rank, world_size
        self.first_step = first_step
        self.prefetch, self.pin = prefetch, pin
        step_slots = order.batch_size // world_size
        self.slots = min(micro_slots or step_slots, step_slots)
        self.micro_batches = -(-step_slots // self.slots)
        self.wait_s = 0.0
        self._buffers: list[torch.Tensor] = []
        self._free: list[int] = []
        self._held: deque[int] = deque()
        self._copied: dict[int, torch.cuda.Event] = {}
        self._running: tuple[threading.Thread, threading.Event] | None = None

    def __len__(self) -> int:
        """Micro-batches in a whole epoch, wherever an iteration starts."""
        return self.order.steps_per_epoch * self.micro_batches

    def state_dict(self) -> dict[str, int]:
        """Nothing: the position is the trainer's count of finished steps. Lightning asks, to know we can resume."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to load; see `state_dict`."""

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
        ready: queue.Queue[Batch | BaseException | None] = queue.Queue(self.prefetch)
        stop = threading.Event()
        self._free = [index for index in range(len(self._buffers)) if index not in self._held]
        thread = threading.Thread(target=self._produce, args=(self.first_step(), ready, stop), daemon=True)
        thread.start()
        self._running = (thread, stop)
        try:
            while True:
                if len(self._held) == HELD_BATCHES:
                    self._free.append(self._held.popleft())
                asked_s = time.perf_counter()
                batch = ready.get()
                self.wait_s += time.perf_counter() - asked_s
                if batch is None:
                    return
                if isinstance(batch, BaseException):
                    raise batch
                self._held.append(batch.buffer)
                yield batch
        finally:
            stop.set()
            thread.join()

    def close(self) -> None:
        """End the thread of an iteration that was left; call it before the reader is closed."""
        if self._running is not None:
            thread, stop = self._running
            stop.set()
            thread.join()
            self._running = None

    def _produce(
        self, first_step: int, ready: queue.Queue[Batch | BaseException | None], stop: threading.Event
    ) -> None:
        """Fill batches until the epoch ends or the consumer leaves."""
        try:
            for batch in self._fill(first_step):
                if not _put(ready, batch, stop):
                    return
            _put(ready, None, stop)
        except BaseException as error:  # handed to the consumer, who raises it
            _put(ready, error, stop)

    def _fill(self, first_step: int) -> Iterator[Batch]:
        epoch, first = divmod(first_step, self.order.steps_per_epoch)
        steps = rank_slots(self.order, epoch=epoch, first_step=first, rank=self.rank, world_size=self.world_size)
        for step, mine in enumerate(steps, start=first):
            global_weight = float(self.order.global_weight(step=step))
            for micro in range(self.micro_batches):
                slots = mine.cut(micro * self.slots, min((micro + 1) * self.slots, len(mine)))
                buffer = self._free_buffer()
                images_BHWC = self._buffers[buffer][: len(slots)]
                self.reader.gather_images(slots.sample_ids, out=images_BHWC)
                yield Batch(
                    images_BHWC=images_BHWC,
                    labels_B=torch.from_numpy(self.reader.labels(slots.sample_ids)),
                    weights_B=torch.from_numpy(slots.weights),
                    positions_B=torch.from_numpy(slots.positions),
                    sample_ids=slots.sample_ids,
                    epoch=epoch,
                    step=epoch * self.order.steps_per_epoch + step,
                    micro=micro,
                    global_weight=global_weight,
                    buffer=buffer,
                )

    def _free_buffer(self) -> int:
        """Return a buffer to fill; the queue's length bounds how many there ever are.

        The one freed last is taken first, since caches still hold it: 1,710 us for 1,024 images of 64x64 on one core
        against 2,002 when six go round in turn.
        """
        if not self._free:
            shape = (self.slots, *self.reader.image_shape)
            self._buffers.append(torch.empty(shape, dtype=torch.uint8, pin_memory=self.pin))
            return len(self._buffers) - 1
        buffer = self._free.pop()
        if copied := self._copied.pop(buffer, None):
            copied.synchronize()
        return buffer


def _put(
    ready: queue.Queue[Batch | BaseException | None], item: Batch | BaseException | None, stop: threading.Event
) -> bool:
    """Put `item` unless the consumer has left; return whether it was put."""
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
