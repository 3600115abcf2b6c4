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
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for_sentinel
from typing import Any

from data_prep.shard_task import ShardTask, build_shard
from pipeline.shards.errors import UserError

POLL_S = 0.1

# Set once in each worker by _start_worker: a shared [items, bytes] counter and the signal to stop.
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
    counters, stop = context.Array("q", 2), context.Event()
    executor = ProcessPoolExecutor(num_workers, context, initializer=_start_worker, initargs=(counters, stop))
    reported = [0, 0]

    def report() -> None:
        done = counters[:]
        on_progress(done[0] - reported[0], done[1] - reported[1])
        reported[:] = done

    try:
        task_of: dict[Future[dict[str, Any]], ShardTask] = {executor.submit(_work, task): task for task in tasks}
        pending = set(task_of)
        while pending:
            finished, pending = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
            report()
            # A real error goes first: Stopped only echoes it.
            for future in sorted(finished, key=lambda future: isinstance(future.exception(), Stopped)):
                yield task_of[future], future.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed (out of memory?); finished shards are kept: type the same command again,"
            " with engine.workers=1 if memory is short"
        ) from None
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)


def _start_worker(counters: Any, stop: Any) -> None:
    # The terminal sends Ctrl-C to workers too; the parent hears it and stops them in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker_state.update(counters=counters, stop=stop)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_sentinel([parent.sentinel])
        os._exit(1)


def _work(task: ShardTask) -> dict[str, Any]:
    return build_shard(task, _report)


def _report(items: int, num_bytes: int) -> None:
    if _worker_state["stop"].is_set():
        raise Stopped
    counters = _worker_state["counters"]
    with counters.get_lock():
        counters[0] += items
        counters[1] += num_bytes
