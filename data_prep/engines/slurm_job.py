"""What a job of `engine=slurm` is given and does: claim tasks on the board and build them until none is free.

    submit(functools.partial(work, Work(key="job-2", groups=grouped(tasks), ...)))

This, by name, is what a job's pickle holds, together with plain values.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.engines.board import Board
from data_prep.engines.local import Stopped, run_local
from data_prep.engines.nodes import Away, check_node
from data_prep.shard_task import ShardTask, opened_store, read_receipt
from pipeline.shards.errors import UserError

# Between a job's signs of life.
PULSE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a job is given.

    Attributes:
        share: this job's place among `num_shares`; it begins there in the list of tasks.
        groups: all tasks, as one task of each split with the numbers of its shards.
    """

    key: str
    board: Path
    away: Away
    groups: list[tuple[ShardTask, list[range]]]
    share: int
    num_shares: int
    cpus: int

    def tasks(self) -> list[ShardTask]:
        """Return all tasks, those of this job's share first."""
        tasks = [
            ShardTask(
                config=self.away.config,
                split=task.split,
                number=number,
                plan_fingerprint=task.plan_fingerprint,
                label_bytes=task.label_bytes,
            )
            for task, numbers in self.groups
            for run in numbers
            for number in run
        ]
        start = len(tasks) * self.share // self.num_shares
        return tasks[start:] + tasks[:start]


def work(item: Work) -> None:
    """Claim and build tasks until none is free: what a job does.

    What a user can mend is told on the board; everything else ends the job, with its traceback in the log.
    """
    board = Board(item.board)
    mine = set(board.claims_of(item.key)) if board.has_told(item.key) else set()
    board.tell(item.key, start=socket.gethostname())
    pulse_s = time.monotonic()

    def look(_items: int, _bytes: int) -> None:
        nonlocal pulse_s
        if time.monotonic() - pulse_s > PULSE_S:
            pulse_s = time.monotonic()
            if not board.is_open():
                raise Stopped
            board.tell(item.key)

    def claimed() -> Iterator[ShardTask]:
        store = opened_store(item.away.config.out)
        for task in item.tasks():
            if not board.is_open():
                raise Stopped
            if task_name(task) in mine:
                # Requeued: begun before, and perhaps ended.
                if read_receipt(store, task) is None:
                    yield task
                else:
                    board.tell(item.key, done=task_name(task))
            elif board.claim(task_name(task), key=item.key):
                yield task

    try:
        check_node(item.away)
        for task, _ in run_local(claimed(), workers=item.cpus, on_progress=look):
            board.tell(item.key, done=task_name(task))
        board.tell(item.key, end=True)
    except Stopped:
        return
    except UserError as error:
        board.tell(item.key, error=str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        board.tell(item.key, error=str(error), errno=[error.errno, error.strerror, error.filename])


def grouped(tasks: list[ShardTask]) -> list[tuple[ShardTask, list[range]]]:
    """Return tasks as one of each split with runs of shard numbers; a job's file stays small however many there are."""
    groups: dict[str, tuple[ShardTask, list[range]]] = {}
    for task in tasks:
        runs = groups.setdefault(task.split, (task, []))[1]
        if runs and runs[-1].stop == task.number:
            runs[-1] = range(runs[-1].start, task.number + 1)
        else:
            runs.append(range(task.number, task.number + 1))
    return list(groups.values())


def task_name(task: ShardTask) -> str:
    return f"{task.split}-{task.number:06d}"
