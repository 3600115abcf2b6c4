"""One try of the batch finder: a few steps in a process of its own, and whether they found enough memory.

    outcome = try_run(command, log=log, variables={}, limit_bytes=4_000_000_000, timeout_s=600)
    outcome.fits

A fresh process each, since what an earlier try has left behind (a fragmented allocator, a device in error) would change
the answer. On several ranks one that finds no memory ends all of them, so they cannot disagree.

On the CPU a limit makes a lack of memory an error of the allocator, where else the kernel would end some process, or
swap. It is RLIMIT_DATA: private writable memory of a process, so shards that are mapped are not in it, nor is the code
of libraries. What a start takes is: 0.35 GB where torch is for CPUs alone, 0.9 GB where it comes with CUDA.
"""

from __future__ import annotations

import re
import resource
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.shards.errors import UserError
from pipeline.sweeping.local_runs import child_environment, end, last_line

# What torch, its libraries, Python and the system say where there is no memory.
NO_MEMORY = re.compile(
    r"out of memory|OutOfMemory|can't allocate memory|Cannot allocate memory|MemoryError|bad_alloc|ALLOC_FAILED"
    r"|not enough memory|can't start new thread|failed to allocate",
    re.IGNORECASE,
)
# Ended by the kernel, by its own name and as a shell tells it.
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Whether the steps were made; `reason` says in a few words why not."""

    fits: bool
    reason: str = ""


def try_run(
    command: Sequence[str],
    *,
    log: Path,
    variables: Mapping[str, str],
    limit_bytes: int | None,
    timeout_s: float,
) -> Outcome:
    """Run a command to its end and tell whether it found enough memory.

    Raises:
        UserError: it failed by something else, or took too long.
    """
    with log.open("wb") as stream:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=child_environment() | dict(variables),
            start_new_session=True,
            preexec_fn=None if limit_bytes is None else _limiter(limit_bytes),
        )
    try:
        exit_code = process.wait(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise UserError(f"a try took over {timeout_s:g} s (batch_finder.timeout_s); its log: {log}") from None
    finally:
        end([process], grace_s=5.0)
    return judge(exit_code, log)


def judge(exit_code: int, log: Path) -> Outcome:
    """Tell from an exit code and what was printed whether there was enough memory.

    Raises:
        UserError: neither that nor a lack of memory.
    """
    if exit_code == 0:
        return Outcome(fits=True)
    printed = log.read_text(errors="replace")
    if found := NO_MEMORY.search(printed):
        return Outcome(fits=False, reason=found.group(0))
    if exit_code in KILLED or re.search(r"exitcode\s*:\s*-9|Signal 9 \(SIGKILL\)", printed):
        return Outcome(fits=False, reason="ended by the kernel")
    raise UserError(f"a try failed, and not for memory: {last_line(log)}; its log: {log}")


def _limiter(limit_bytes: int) -> Callable[[], None]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))

    return limit
