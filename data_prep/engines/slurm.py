"""The engine `slurm`: a job array whose jobs take unfinished shards until none is left, submitted and watched.

    for task, receipt in run_slurm(tasks, engine=SlurmEngineConfig(workers=64), on_progress=bar.update):
        ...

Jobs claim tasks on a board in a shared folder, so that those which start late or never leave their share to the others.
A job that is lost (its node died, its time or memory ran out) is followed up by a new one, and what it had
claimed is done by whoever comes next. A job that Slurm requeues goes on with its own claims. When this process ends,
by an error or Ctrl-C, it cancels the jobs; when it is killed, they go on, and the next preparation into the same
output ends them.

submitit passes the jobs their work as pickles. They pass between processes of one user, in a folder that this user
alone can read.
"""

from __future__ import annotations

import functools
import logging
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.config import Cluster, SlurmEngineConfig
from data_prep.engines.board import BOARD_FOLDER, Board, cancel_jobs, queued_jobs
from data_prep.engines.local import Finished, OnProgress, interrupt_masked
from data_prep.engines.nodes import num_done, travelling
from data_prep.engines.slurm_array import job_numbers, last_words, open_executor
from data_prep.engines.slurm_job import Work, grouped, task_name, work
from data_prep.shard_task import ShardTask, opened_store, read_receipt
from pipeline.shards.errors import UserError

log = logging.getLogger(__name__)

POLL_S = 1.0
# Between questions to Slurm; jobs tell by themselves what they do.
ASK_SLURM_S = 30.0
# How long a job that has begun may go without a sign of life.
SILENT_S = 1800.0
# How long a receipt may take to be seen on this node after a job told of it.
RECEIPT_S = 60.0
CANCEL_S = 15.0
# A shard lost with this many jobs, and a job followed up this often without one shard more, end the run.
MAX_LOSSES = 3


def run_slurm(tasks: list[ShardTask], *, engine: SlurmEngineConfig, on_progress: OnProgress) -> Iterator[Finished]:
    """Build every task by a job array and yield each with its receipt as they are finished, in any order.

    Args:
        tasks: of one config.

    Raises:
        UserError: a task's own; Slurm is not here or refuses the jobs; jobs were lost again and again.
    """
    if engine.cluster is Cluster.slurm and shutil.which("sbatch") is None:
        raise UserError(
            "engine=slurm: no sbatch on this machine; type the command where jobs are submitted, or take"
            " engine.cluster=local to run the jobs here"
        )
    folder, board_folder = _folders(tasks[0].config.out, engine)
    board = Board(board_folder)
    board.open()
    run = _Run(tasks, engine=engine, board=board, folder=folder, on_progress=on_progress)
    try:
        run.start()
        yield from run.until_done()
    finally:
        board.close()
        run.cancel()
    # Logs are kept where a folder for them was asked for, and where a run failed.
    shutil.rmtree(board_folder if engine.folder else folder, ignore_errors=True)
    shutil.rmtree(Path(tasks[0].config.out) / BOARD_FOLDER, ignore_errors=True)


def _folders(out: str, engine: SlurmEngineConfig) -> tuple[Path, Path]:
    """Return the folders of submitit's files, new for each run, and of the board."""
    if engine.folder is None and "://" in out:
        raise UserError(
            f"engine.folder is needed with out={out}: a folder that all nodes share, for logs and job files"
        )
    home = Path(out).absolute() / BOARD_FOLDER
    folder = Path(engine.folder).expanduser().absolute() if engine.folder else home
    run = folder / f"run-{secrets.token_hex(4)}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        run.mkdir(mode=0o700)
    except OSError as error:
        raise UserError(f"engine.folder={folder}: cannot be written to ({error.strerror})") from None
    return run, run / "board" if "://" in out else home / "board"


@dataclass(slots=True, kw_only=True)
class _Job:
    """A submitted job as this process knows it."""

    job: Any
    share: int
    num_followed: int
    num_done: int = 0
    has_ended: bool = False
    is_queued: bool = True
    pulse: tuple[int, int] | None = None
    pulse_s: float = field(default_factory=time.monotonic)


class _Run:
    """The driver's side: jobs that are out, tasks that are not done, and what jobs told of."""

    def __init__(
        self,
        tasks: list[ShardTask],
        *,
        engine: SlurmEngineConfig,
        board: Board,
        folder: Path,
        on_progress: OnProgress,
    ) -> None:
        self._engine, self._board, self._folder, self._on_progress = engine, board, folder, on_progress
        self._away = travelling(tasks[0].config)
        self._store = opened_store(tasks[0].config.out)
        self._undone = {task_name(task): task for task in tasks}
        self._told_s: dict[str, float] = {}
        self._jobs: dict[str, _Job] = {}
        self._num_losses: Counter[str] = Counter()
        self._num_submitted = 0
        self._asked_s = time.monotonic()
        self._given_up = ""
        self._executor = open_executor(engine, folder)

    def start(self) -> None:
        assert self._engine.workers is not None
        num_jobs = min(self._engine.workers, len(self._undone))
        self._submit([(share, 0) for share in range(num_jobs)])
        log.info("%d %s submitted; logs: %s", num_jobs, "job" if num_jobs == 1 else "jobs", self._folder)

    def until_done(self) -> Iterator[Finished]:
        while self._undone:
            self._hear()
            yield from self._take_finished()
            if self._undone:
                self._follow_up_lost()
                time.sleep(POLL_S)

    def cancel(self) -> None:
        """Cancel what still runs and give it a moment to end."""
        alive = [job.job for job in self._jobs.values()]
        if self._engine.cluster is Cluster.slurm:
            cancel_jobs(job_numbers(job for job in alive if not job.paths.result_pickle.exists()))
            return
        deadline_s = time.monotonic() + CANCEL_S
        # Without Slurm they end by their own look at the board, and take their part files back.
        while not all(job.done() for job in alive) and time.monotonic() < deadline_s:
            time.sleep(0.1)

    def _submit(self, shares: list[tuple[int, int]]) -> None:
        assert self._engine.workers is not None
        works, groups = [], grouped(list(self._undone.values()))
        for share, _ in shares:
            works.append(
                Work(
                    key=f"job-{self._num_submitted}",
                    board=self._board.folder,
                    away=self._away,
                    groups=groups,
                    share=share,
                    num_shares=self._engine.workers,
                    cpus=self._engine.cpus_per_task,
                )
            )
            self._num_submitted += 1
        try:
            # A terminal's Ctrl-C is for this process, which then ends the jobs in order.
            with interrupt_masked():
                jobs = self._executor.submit_array([functools.partial(work, item) for item in works])
        except (RuntimeError, ValueError, OSError) as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
            raise UserError(f"engine=slurm: the jobs were refused: {lines[-1].strip()}") from None
        if self._engine.cluster is Cluster.slurm:
            self._board.note_jobs(job_numbers(jobs))
        for item, job, (share, num_followed) in zip(works, jobs, shares, strict=True):
            self._jobs[item.key] = _Job(job=job, share=share, num_followed=num_followed)

    def _hear(self) -> None:
        for key, event in self._board.news():
            if "error" in event:
                raise OSError(*event["errno"]) if "errno" in event else UserError(event["error"])
            if name := event.get("done"):
                self._told_s.setdefault(name, time.monotonic())
                if key in self._jobs:
                    self._jobs[key].num_done += 1
            if event.get("end") and key in self._jobs:
                self._jobs[key].has_ended = True

    def _take_finished(self) -> Iterator[Finished]:
        for name, told_s in list(self._told_s.items()):
            task = self._undone.get(name)
            receipt = read_receipt(self._store, task) if task else None
            if task is None or receipt is not None:
                del self._told_s[name]
            elif time.monotonic() - told_s > RECEIPT_S:
                del self._told_s[name]
                self._lose([name], "its receipt does not appear")
            if task is not None and receipt is not None:
                del self._undone[name]
                self._on_progress(*num_done(receipt))
                yield task, receipt

    def _follow_up_lost(self) -> None:
        """Submit a job for each that is gone before its time; when all are gone, for whatever is left."""
        if self._engine.cluster is Cluster.slurm and time.monotonic() - self._asked_s > ASK_SLURM_S:
            self._asked_s = time.monotonic()
            queued = queued_jobs(job_numbers(job.job for job in self._jobs.values()))
            for job in self._jobs.values():
                job.is_queued = queued is None or job.job.job_id in queued
        gone = {key: job for key, job in self._jobs.items() if job.has_ended or self._is_gone(key, job)}
        if not gone:
            return
        self._hear()  # what they told last
        again = []
        for key, job in gone.items():
            del self._jobs[key]
            if job.has_ended:
                continue
            told = last_words(job.job)
            self._lose(self._board.claims_of(key), told)
            num_followed = 0 if job.num_done else job.num_followed + 1
            if num_followed < MAX_LOSSES:
                log.warning("lost, and followed up: %s", told)
                again.append((job.share, num_followed))
            else:
                self._given_up = told
        waited_for = self._undone.keys() - self._told_s.keys()
        if waited_for and not again and not self._jobs:
            if self._given_up:
                raise UserError(f"engine=slurm: jobs end without finishing a shard; the last: {self._given_up}")
            # Claimed by nobody who is left.
            self._lose(list(waited_for), "no job has it")
            again.append((0, 0))
        if waited_for and again:
            self._submit(again)

    def _is_gone(self, key: str, job: _Job) -> bool:
        pulse = self._board.pulse(key)
        if pulse != job.pulse:
            job.pulse, job.pulse_s = pulse, time.monotonic()
        if job.pulse is not None and time.monotonic() - job.pulse_s > SILENT_S:
            cancel_jobs([job.job.job_id])
            return True
        if self._engine.cluster is Cluster.slurm:
            return not job.is_queued or job.job.paths.result_pickle.exists()
        return bool(job.job.done())

    def _lose(self, names: list[str], reason: str) -> None:
        """Give back what was claimed and is not done, unless it was lost too often."""
        names = [name for name in names if name in self._undone and name not in self._told_s]
        for name in names:
            self._num_losses[name] += 1
            if self._num_losses[name] >= MAX_LOSSES:
                raise UserError(
                    f"engine=slurm: shard {name} was lost {MAX_LOSSES} times with its job; the last: {reason};"
                    " finished shards are kept: give jobs more engine.mem_gb or engine.time_min, and type the same"
                    " command again"
                )
        self._board.release(names)
