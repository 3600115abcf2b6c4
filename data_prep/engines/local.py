"""The local engine: shard tasks over processes of this machine.

    for task, receipt in run_local(tasks, workers=4, on_progress=bar.update):
        ...

Workers are spawned, not forked, and die with their parent however it dies, so that a killed run leaves no writer
behind. The first error, or Ctrl-C, stops the others at their next report of progress.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_sentinel
from typing import Any

from data_prep.shard_task import ShardTask, build_shard
from pipeline.shards.errors import UserError

POLL_S = 0.1

# What a worker reports: items and bytes newly done.
_PROGRESS = struct.Struct("<qq")
# Set once in each worker by _start_worker: where to report progress, and a byte that says stop. Neither has a lock,
# which a killed worker could take along.
_worker_state: dict[str, Any] = {}


class Stopped(Exception):
    """Another task failed; this one gave up."""


def run_local(
    tasks: list[ShardTask], *, workers: int | None, on_progress: Callable[[int, int], None]
) -> Iterator[tuple[ShardTask, dict[str, Any]]]:
    """Build every task and yield each with its receipt as they are finished, in any order.

    Args:
        workers: processes; None for one a core, and never more than there are tasks. One runs in this process.
        on_progress: called with (items, bytes) newly done.

    Raises:
        UserError: a task's own, or a worker was killed.
    """
    num_workers = min(workers or os.cpu_count() or 1, len(tasks))
    if num_workers <= 1:
        for task in tasks:
            yield task, build_shard(task, on_progress)
        return
    context = multiprocessing.get_context("spawn")
    progress, progress_writer = context.Pipe(duplex=False)
    stop = context.RawValue("b", 0)
    executor = ProcessPoolExecutor(num_workers, context, initializer=_start_worker, initargs=(progress_writer, stop))
    with _interrupt_as_flag() as interrupted:
        try:
            with _interrupt_masked():
                task_of = {executor.submit(_work, task): task for task in tasks}
            pending = set(task_of)
            while pending:
                finished, pending = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
                while progress.poll():
                    on_progress(*_PROGRESS.unpack(progress.recv_bytes()))
                if interrupted.is_set():
                    raise KeyboardInterrupt
                # A real error goes first: Stopped only echoes it.
                for future in sorted(finished, key=lambda future: isinstance(future.exception(), Stopped)):
                    yield task_of[future], future.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed (out of memory?); finished shards are kept: type the same command"
                " again, with engine.workers=1 if memory is short"
            ) from None
        finally:
            stop.value = 1
            executor.shutdown(cancel_futures=True)


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
def _interrupt_masked() -> Iterator[None]:
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


def _work(task: ShardTask) -> dict[str, Any]:
    return build_shard(task, _report)


def _report(items: int, num_bytes: int) -> None:
    if _worker_state["stop"].value:
        raise Stopped
    # So small a message is one atomic write.
    _worker_state["progress"].send_bytes(_PROGRESS.pack(items, num_bytes))
