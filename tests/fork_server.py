"""Processes that start at once: forked from a server that has imported what the commands import, and run nothing.

    ended = run_forked("data_prep.verify", "path=data/mnist")       # a CompletedProcess, as of `python -m`
    process = fork(work, 3)                                         # work(3), in a process of its own

A start of Python with torch takes five seconds of a busy machine, a fork a tenth of one. Everything else is as typed:
an own process with its own output, folder, environment, signals and exit code, that runs the module as `__main__`.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
# The first step of an optimiser imports torch._dynamo; sharding, evaluating and testing import the others.
_context.set_forkserver_preload(
    ["pipeline.train", "pipeline.evaluate", "torch._dynamo", "torch.distributed.fsdp", "torch.testing"]
)


def fork(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start `work(*arguments)` in a process of its own."""
    process = _context.Process(target=work, args=arguments)
    process.start()
    return process


def start_forked(
    module: str,
    *options: str,
    stdout: Path,
    stderr: Path,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> BaseProcess:
    """Start a command, in this process's folder and environment where nothing else is said."""
    there = str(folder or Path.cwd()), dict(os.environ if environment is None else environment)
    return fork(_run, module, options, there, stdout, stderr)


def run_forked(
    module: str,
    *options: str,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.

    Raises:
        AssertionError: it took longer than `timeout_s`.
    """
    with tempfile.TemporaryDirectory() as printed:
        stdout, stderr = Path(printed) / "stdout", Path(printed) / "stderr"
        process = start_forked(module, *options, stdout=stdout, stderr=stderr, folder=folder, environment=environment)
        process.join(timeout_s)
        exit_code = process.exitcode
        process.kill()
        process.join()
        told = stdout.read_text(), stderr.read_text()
    assert exit_code is not None, f"{module} {options}: not at its end after {timeout_s:g} s; {told}"
    return subprocess.CompletedProcess([module, *options], exit_code, *told)


def _run(module: str, options: tuple[str, ...], there: tuple[str, dict[str, str]], stdout: Path, stderr: Path) -> None:
    folder, environment = there
    take_over(folder=folder, environment=environment, stdout=stdout, stderr=stderr)
    run_as_main(module, options)


def take_over(*, folder: str, environment: Mapping[str, str], stdout: Path, stderr: Path) -> None:
    """Give this process the folder, the environment, the output and the signals that a shell would have given it."""
    for number, path in ((1, stdout), (2, stderr)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    faulthandler.enable()  # what a crash in native code leaves in the output is then where every thread was
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)


def run_as_main(module: str, options: tuple[str, ...]) -> None:
    """Run a module as `python -m` does; what it raises passes, SystemExit too."""
    if not hasattr(sys.modules.get(module), "__path__"):
        sys.modules.pop(module, None)  # else runpy would warn that it is there already
    sys.argv = [module, *options]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
