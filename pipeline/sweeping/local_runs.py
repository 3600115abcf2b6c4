"""Runs as processes of this machine, one after another or several at once.

    for number, exit_code in run_here(jobs, num_at_once=2, keep_open=[lock]):
        ...

Where they may be forked that spares each the seconds of its imports (pipeline/sweeping/forked_runs.py).

Each has a session of its own, so a terminal's Ctrl-C is for this process alone. When the loop is left by an exception,
all that is under way is asked to end (SIGTERM: training saves and ends), and after a minute made to.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from pipeline.shards.errors import UserError
from pipeline.sweeping.forked_runs import ForkServer, open_fork_server

POLL_S = 0.05
# torchrun gives its ranks half of that.
GRACE_S = 60.0
# Begins the line of a log at which a try of the run begins.
TRY = "$ "


class RunProcess(Protocol):
    """A process that was started here: `subprocess.Popen`, or one that was forked."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def terminate(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One process: a number that names it, its command, and the file that takes what it prints."""

    number: int
    command: Sequence[str]
    log: Path


def training_command(options: Sequence[str], *, ranks: int) -> list[str]:
    """Return the command of a training run on some ranks of one machine."""
    module = ["pipeline.train"] if ranks == 1 else ["pipeline.launch", "pipeline.train"]
    return [sys.executable, "-m", *module, *options]


def slot_environment(slot: int, *, num_slots: int, ranks: int, gpus: Sequence[str]) -> dict[str, str]:
    """Return the variables of a run in one of the slots that share a machine.

    Each slot has its part of the cores, or less where OMP_NUM_THREADS is set to less, and GPUs of its own; where there
    are too few for that, slots take turns.
    """
    num_threads = max(1, len(os.sched_getaffinity(0)) // (num_slots * ranks))
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        num_threads = min(num_threads, int(given))
    variables = {"NPROC": str(ranks), "OMP_NUM_THREADS": str(num_threads)}
    if gpus and num_slots > 1:
        first = slot % max(1, len(gpus) // ranks) * ranks
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[first : first + ranks])
    return variables


def visible_gpus(num_gpus: int) -> list[str]:
    """Return the names by which GPUs are handed on: those that this process was given, or all by number."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in given.split(",")][:num_gpus] if given else [str(i) for i in range(num_gpus)]


def may_fork(*, ranks: int, gpus: Sequence[str]) -> bool:
    """Whether runs can be forked: CUDA does not bear it, nor do macOS's libraries; ranks are torchrun's to start."""
    return ranks == 1 and not gpus and sys.platform == "linux"


def run_here(
    jobs: Sequence[Job],
    *,
    num_at_once: int,
    keep_open: Sequence[int] = (),
    environment: Callable[[int], Mapping[str, str]] = lambda slot: {},
    forked: bool = False,
    grace_s: float = GRACE_S,
) -> Iterator[tuple[int, int]]:
    """Run the jobs and yield the number and exit code of each as it ends.

    Args:
        keep_open: descriptors that the processes inherit.
        environment: further variables of a process by its slot, 0 to num_at_once - 1.
        forked: the jobs are all of one module (`python -m MODULE ...`), with the same variables in all slots, and are
            forked from one process.
    """
    waiting = list(jobs)
    running: dict[int, tuple[Job, RunProcess]] = {}
    with ExitStack() as opened:
        server = None
        if forked and waiting:
            variables = _variables(environment(0))
            server = opened.enter_context(open_fork_server(waiting[0].command[2], variables=variables))
        try:
            while waiting or running:
                for slot in range(num_at_once):
                    if slot not in running and waiting:
                        job = waiting.pop(0)
                        if server is not None:
                            running[slot] = job, _fork(job, server, keep_open=keep_open)
                        else:
                            running[slot] = job, start(job, variables=environment(slot), keep_open=keep_open)
                has_ended = False
                for slot, (job, process) in list(running.items()):
                    exit_code = process.poll()
                    if exit_code is not None:
                        has_ended = True
                        del running[slot]
                        yield job.number, exit_code
                if not has_ended:
                    time.sleep(POLL_S)
        finally:
            end(_under_way(server, [process for _, process in running.values()]), grace_s=grace_s)


def start(
    job: Job, *, variables: Mapping[str, str], keep_open: Sequence[int] = (), own_session: bool = True
) -> subprocess.Popen[bytes]:
    """Start a job; its log goes on where an earlier try of it ended."""
    with _opened_log(job) as stream:
        return subprocess.Popen(
            list(job.command),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=_variables(variables),
            pass_fds=tuple(keep_open),
            start_new_session=own_session,
        )


def _fork(job: Job, server: ForkServer, *, keep_open: Sequence[int]) -> RunProcess:
    with _opened_log(job) as stream:
        return server.start(job.command[3:], output=stream.fileno(), keep_open=keep_open)


def _opened_log(job: Job) -> IO[bytes]:
    stream = job.log.open("ab")
    stream.write(f"{TRY}{shlex.join(job.command)}\n".encode())
    stream.flush()
    return stream


def _variables(further: Mapping[str, str]) -> dict[str, str]:
    return child_environment() | {"PYTHONUNBUFFERED": "1"} | dict(further)


def _under_way(server: ForkServer | None, running: Sequence[RunProcess]) -> Sequence[RunProcess]:
    """Return what is to be ended; the server knows best, also of a run whose start was broken off."""
    try:
        return running if server is None else server.living()
    except UserError:
        return running


def child_environment() -> dict[str, str]:
    """Return this process's variables without those by which torchrun tells a rank its place."""
    of_a_rank = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR")
    return {name: value for name, value in os.environ.items() if name not in of_a_rank}


def end(processes: Sequence[RunProcess], *, grace_s: float = GRACE_S) -> None:
    """Ask processes to end and wait for that; what is left after `grace_s`, or at a second Ctrl-C, is killed."""
    try:
        for process in processes:
            process.terminate()
        deadline_s = time.monotonic() + grace_s
        for process in processes:
            process.wait(timeout=max(0.0, deadline_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in processes:
            try:
                process.wait(timeout=0)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):  # one that nobody here waits for may be gone by now
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def last_line(log: Path) -> str:
    """Return the error that a run ended with, of its last try; without one, the last line that it printed."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    except OSError:
        return "it printed nothing"
    begun = max((index for index, line in enumerate(lines) if line.startswith(TRY)), default=-1)
    told = [line for line in lines[begun + 1 :] if line]
    errors = [line for line in told if line.startswith("error: ")]
    return (errors or told or ["it printed nothing"])[-1]
