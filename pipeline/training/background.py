"""Writing checkpoints beside training: a copy of the tensors on the step's thread, the disk on another one.

    writer = BackgroundWriter(lambda step, content: write_checkpoint(content, folder / checkpoint_name(step)))
    writer.write(391, collect_checkpoint(trainer))      # returns when the copy is made, or under way on the GPU
    writer.wait()                                       # returns when it is on the disk: writer.stored_step == 391

One write is under way at a time, so checkpoints appear in order; who comes too early waits. The copy lies in memory
that is used again for the next one: fresh memory would cost a page fault every 4 KiB.
Shards are gathered straight into the copy, one tensor after the other.
A full disk is told and costs that checkpoint alone. What holds a NaN or an infinity is not written: with it a run
could not go on, and the last good checkpoint would make room for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from pipeline.data.loader import start_threads
from pipeline.training.sharding import gather_whole, whole

log = logging.getLogger(__name__)

Write = Callable[[int, Mapping[str, Any]], None]


class BackgroundWriter:
    """Hands checkpoints to `write`, one after another.

    Args:
        write: publishes the content after a step; its OSError is logged.
        background: False: no copy and no thread; `write` returns when the file is there.
        stored_step: of the checkpoint that is there already.

    Attributes:
        stored_step: of the last checkpoint that was written; None before the first.
        pause_s, write_s: seconds that training stood still, and that writing took, in all.
        num_writes: checkpoints handed over.
    """

    def __init__(self, write: Write, *, background: bool = True, stored_step: int | None = None) -> None:
        self._write, self._background = write, background
        self.stored_step = stored_step
        self.pause_s = self.write_s = 0.0
        self.num_writes = 0
        self._snapshot = Snapshot()
        self._pool: ThreadPoolExecutor | None = None
        self._under_way: Future[None] | None = None

    def write(self, step: int, content: Mapping[str, Any], *, is_writer: bool = True) -> None:
        """Write `content`, whose tensors may change as soon as this returns.

        Args:
            is_writer: on one rank; where the content holds shards, every other one must call this too.
        """
        if not is_writer:
            gather_whole(content, keep=False)
            return
        began_s = time.perf_counter()
        self.num_writes += 1
        if not self._background:
            self._store(step, gather_whole(content, keep=True), lambda: None)
        else:
            self.wait()
            copy = self._snapshot.take(content)
            if self._pool is None:
                self._pool = start_threads(1, name="checkpoint")
            self._under_way = self._pool.submit(self._store, step, copy, self._snapshot.wait)
        self.pause_s += time.perf_counter() - began_s

    def wait(self) -> None:
        """Return when nothing is under way; raise what went wrong other than a full disk."""
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            under_way.result()

    def means(self) -> dict[str, float]:
        """Return the seconds that training stood still for a checkpoint, and that writing one took, for the summary."""
        num = max(1, self.num_writes)
        return {"checkpoint/pause_s": self.pause_s / num, "checkpoint/write_s": self.write_s / num}

    def close(self) -> None:
        """Let a write under way end, and end the thread."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _store(self, step: int, content: Mapping[str, Any], wait_for_copy: Callable[[], None]) -> None:
        began_s = time.perf_counter()
        wait_for_copy()
        if not is_finite(content):
            log.warning("step %d: not saved, as its state holds numbers that are not finite; the last one stays", step)
            return
        try:
            self._write(step, content)
            self.stored_step = step
        except OSError as error:
            log.warning(
                "step %d: the checkpoint could not be saved (%s); training goes on, the last one stays", step, error
            )
        self.write_s += time.perf_counter() - began_s


class Snapshot:
    """Copies nested plain containers, tensors into memory of its own that the next copy uses again; shards whole."""

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor] = []
        self._copied: torch.cuda.Event | None = None

    def take(self, content: Any) -> Any:
        """Return a copy, valid until the next `take`; of tensors on a GPU only after `wait`."""
        old, self._buffers, self._copied = iter(self._buffers), [], None
        # Lightning evaluates, and saves after it, in inference mode, whose tensors could not be written to later.
        with torch.inference_mode(False), torch.no_grad():
            copy = self._copy(content, old)
        if any(tensor.is_cuda for tensor in tensors_in(content)):
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()
        return copy

    def wait(self) -> None:
        """Return when the copies from the GPU have arrived."""
        if self._copied is not None:
            self._copied.synchronize()

    def _copy(self, content: Any, old: Iterator[torch.Tensor]) -> Any:
        match content:
            case torch.Tensor():
                content = whole(content)
                buffer = next(old, None)
                if buffer is None or (buffer.shape, buffer.dtype) != (content.shape, content.dtype):
                    buffer = torch.empty(content.shape, dtype=content.dtype, pin_memory=content.is_cuda)
                self._buffers.append(buffer)
                return buffer.copy_(content.detach(), non_blocking=True)
            case dict():
                return {key: self._copy(value, old) for key, value in content.items()}
            case list() | tuple():
                return type(content)([self._copy(value, old) for value in content])
            case _:
                return content


def tensors_in(content: Any) -> Iterator[torch.Tensor]:
    """Yield every tensor in nested plain containers."""
    match content:
        case torch.Tensor():
            yield content
        case Mapping():
            for value in content.values():
                yield from tensors_in(value)
        case list() | tuple():
            for value in content:
                yield from tensors_in(value)


@torch.no_grad()
def is_finite(content: Any) -> bool:
    """Return whether no tensor in nested plain containers holds a NaN or an infinity."""
    for tensor in tensors_in(content):
        if tensor.is_floating_point() and tensor.numel():
            least, most = torch.aminmax(tensor.detach())  # either is NaN where any element is
            if not torch.isfinite(least) or not torch.isfinite(most):
                return False
    return True
