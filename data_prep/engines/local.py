"""The local engine: shard tasks over processes of this machine.

    for task, receipt in run_local(tasks, workers=4, on_progress=bar.update):
        ...

Workers are spawned, not forked, and die with their parent however it dies, so that a killed run leaves no writer
behind. Tasks are taken as workers come free, so that a million of them cost no memory. The first error, or Ctrl-C,
stops the others at their next report of progress.

A worker that is killed, mostly for memory, takes what was being built along. It is built anew by half as many
workers; what was lost twice waits for the end and is built alone; what was lost alone is given up, after all others
are finished.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_sentinel
from typing import Any

from data_prep.shard_task import ShardTask, build_shard
from pipeline.shards.errors import UserError

log = logging.getLogger(__name__)

POLL_S = 0.1
# This many tasks given up, and the machine is at fault, not the images.
MAX_GIVEN_UP = 3

# What a worker reports: the task's number, and items and bytes newly done.
_PROGRESS = struct.Struct("<qqq")
# Set once in each worker by _start_worker: where to report progress, and a byte that says stop. Neither has a lock,
# which a killed worker could take along.
_worker_state: dict[str, Any] = {}

# Called with (items, bytes) newly done; negative for what was lost with a killed worker.
OnProgress = Callable[[int, int], None]
Finished = tuple[ShardTask, dict[str, Any]]


class Stopped(Exception):
    """Another task failed; this one gave up."""


def run_local(tasks: Iterable[ShardTask], *, workers: int | None, on_progress: OnProgress) -> Iterator[Finished]:
    """Build every task and yield each with its receipt as they are finished, in any order.

    Args:
        tasks: read as workers come free; no more than a few ahead.
        workers: processes; None for one a core, and never more than a list has tasks. One runs in this process.
        on_progress: called with (items, bytes) newly done.

    Raises:
        UserError: a task's own, or workers were killed again and again.
    """
    num_workers = workers or os.cpu_count() or 1
    if isinstance(tasks, list):
        num_workers = min(num_workers, len(tasks))
    if num_workers <= 1:
        for task in tasks:
            yield task, build_shard(task, on_progress)
        return
    yield from _Run(tasks, on_progress=on_progress).with_workers(num_workers)


class _Run:
    """What is left to do, what is being built, and what was lost, over one pool of workers after another."""

    def __init__(self, tasks: Iterable[ShardTask], *, on_progress: OnProgress) -> None:
        self._numbered = enumerate(tasks)
        self._on_progress = on_progress
        self._again: deque[tuple[int, ShardTask]] = deque()
        self._alone: deque[tuple[int, ShardTask]] = deque()
        self._building: dict[Future[dict[str, Any]], tuple[int, ShardTask]] = {}
        self._num_losses: Counter[int] = Counter()
        self._done_of: dict[int, tuple[int, int]] = {}
        self._given_up: list[ShardTask] = []

    def with_workers(self, num_workers: int) -> Iterator[Finished]:
        while True:
            try:
                yield from self._with_pool(num_workers)
            except BrokenProcessPool:
                num_workers = max(1, num_workers // 2)
                yield from self._take_finished(self._building)
                self._lose_what_was_building()
                log.warning(
                    "a worker process was killed (out of memory?); going on with %d %s",
                    num_workers,
                    "worker" if num_workers == 1 else "workers",
                )
                continue
            if not self._alone:
                break
            num_workers, self._again, self._alone = 1, self._alone, deque()
        if self._given_up:
            raise _killed(self._given_up)

    def _with_pool(self, num_workers: int) -> Iterator[Finished]:
        """Build until nothing is left but what must be built alone.

        Raises:
            BrokenProcessPool: a worker was killed; what was being built still stands in `_building`.
        """
        context = multiprocessing.get_context("spawn")
        progress, progress_writer = context.Pipe(duplex=False)
        stop = context.RawValue("b", 0)
        executor = ProcessPoolExecutor(
            num_workers, context, initializer=_start_worker, initargs=(progress_writer, stop)
        )
        # One more than there are workers, so that none waits for this process; alone, so that the guilty is known.
        room = num_workers + 1 if num_workers > 1 else 1
        with _interrupt_as_flag() as interrupted:
            try:
                while True:
                    while len(self._building) < room and (numbered := self._next()):
                        self._submit(executor, *numbered)
                    if not self._building:
                        return
                    finished, _ = wait(self._building, timeout=POLL_S, return_when=FIRST_COMPLETED)
                    self._read_progress(progress)
                    if interrupted.is_set():
                        raise KeyboardInterrupt
                    yield from self._take_finished(finished)
                    # A real error goes first: Stopped only echoes it.
                    for future in sorted(finished, key=lambda future: isinstance(future.exception(), Stopped)):
                        future.result()
            finally:
                stop.value = 1
                executor.shutdown(cancel_futures=True)
                self._read_progress(progress)
                progress.close()
                progress_writer.close()

    def _take_finished(self, futures: Iterable[Future[dict[str, Any]]]) -> Iterator[Finished]:
        """Yield what ended well among `futures`."""
        for future in [future for future in futures if future.done() and future.exception() is None]:
            number, task = self._building.pop(future)
            self._done_of.pop(number, None)
            yield task, future.result()

    def _next(self) -> tuple[int, ShardTask] | None:
        return self._again.popleft() if self._again else next(self._numbered, None)

    def _submit(self, executor: ProcessPoolExecutor, number: int, task: ShardTask) -> None:
        try:
            with interrupt_masked():
                self._building[executor.submit(_work, number, task)] = (number, task)
        except BrokenProcessPool:
            self._again.appendleft((number, task))
            raise

    def _read_progress(self, progress: Connection) -> None:
        with suppress(EOFError, OSError):
            while progress.poll():
                number, items, num_bytes = _PROGRESS.unpack(progress.recv_bytes())
                done_items, done_bytes = self._done_of.get(number, (0, 0))
                self._done_of[number] = (done_items + items, done_bytes + num_bytes)
                self._on_progress(items, num_bytes)

    def _lose_what_was_building(self) -> None:
        """Put every unfinished task where it will be built anew, or give it up."""
        alone = len(self._building) == 1
        for number, task in self._building.values():
            items, num_bytes = self._done_of.pop(number, (0, 0))
            self._on_progress(-items, -num_bytes)
            self._num_losses[number] += 1
            if alone and self._num_losses[number] > 1:
                self._given_up.append(task)
            elif self._num_losses[number] > 1:
                self._alone.append((number, task))
            else:
                self._again.append((number, task))
        self._building.clear()
        if len(self._given_up) >= MAX_GIVEN_UP:
            raise _killed(self._given_up)


def _killed(given_up: list[ShardTask]) -> UserError:
    shards = ", ".join(f"{task.split} {task.number}" for task in given_up)
    return UserError(
        f"a worker process was killed (out of memory?) each time that it built shard {shards}, also when it was alone;"
        " finished shards are kept: free memory, or take a machine with more, and type the same command again"
    )


@contextmanager
def _interrupt_as_flag() -> Iterator[threading.Event]:
    """Turn Ctrl-C into a flag: raised inside the executor's own code, KeyboardInterrupt leaves its locks held."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def interrupt_masked() -> Iterator[None]:
    """Hold Ctrl-C back for the block, and for good in processes that start in it.

    The terminal sends it to workers too; the parent alone hears it and stops them in order.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(progress: Connection, stop: Any) -> None:
    _worker_state.update(progress=progress, stop=stop)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_sentinel([parent.sentinel])
        os._exit(1)


def _work(number: int, task: ShardTask) -> dict[str, Any]:
    def report(items: int, num_bytes: int) -> None:
        if _worker_state["stop"].value:
            raise Stopped
        # So small a message is one atomic write.
        _worker_state["progress"].send_bytes(_PROGRESS.pack(number, items, num_bytes))

    return build_shard(task, report)
