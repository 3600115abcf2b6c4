"""Runs that start at once: forked from a process that has imported what training imports, and done nothing else.

    with open_fork_server("pipeline.train", variables={"OMP_NUM_THREADS": "1"}) as server:
        run = server.start(["data.path=data/mnist"], output=log.fileno(), keep_open=[lock])
        exit_code = run.wait()

A run of a few steps takes 0.6 s of a core instead of 4.3 (benchmarks/README.md). Beside the imports two more costs are
spared: what its module has a function `prepare(options)` for is done ahead, and where it ends well, nothing of what was
imported is cleared away. All else is as of `python -m pipeline.train`: a process and session of its own with its own
output, signals and exit code, which runs the module as `__main__`. Its variables, the number of threads among them, are
those with which the server was started, as libraries read them when they are imported. The server starts no threads,
which would not be there after a fork, and never touches a GPU, as CUDA does not bear it.

The server answers one request at a time. It ends when the process that asks does, by whatever means; its runs go on
then, as any process does whose parent was killed.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.shards.errors import UserError

MAX_MESSAGE_BYTES = 1 << 20
MAX_DESCRIPTORS = 16
POLL_S = 0.01
# Of a run whose server has gone nobody can tell how it ended.
UNKNOWN_EXIT = 255


class ForkedRun:
    """A run that the server has started, with what is needed of `subprocess.Popen`."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self._server = server
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while the run goes on.

        Raises:
            UserError: the server has gone.
        """
        if self.returncode is None:
            self.returncode = self._server.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code, UNKNOWN_EXIT where the server has gone.

        Raises:
            subprocess.TimeoutExpired: the run goes on after so many seconds.
        """
        deadline_s = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                code = self.poll()
            except UserError:
                code = self.returncode = None if _is_alive(self.pid) else UNKNOWN_EXIT
            if code is not None:
                return code
            if deadline_s is not None and time.monotonic() >= deadline_s:
                raise subprocess.TimeoutExpired(f"run {self.pid}", timeout or 0.0)
            time.sleep(POLL_S)

    def terminate(self) -> None:
        """Ask the run to end. Until the server has told of its end, no other process has its number."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)


class ForkServer:
    """The asking end of the connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._num_asked = 0

    def start(self, options: Sequence[str], *, output: int, keep_open: Sequence[int] = ()) -> ForkedRun:
        """Start a run.

        Args:
            output: descriptor that takes what it prints.
            keep_open: descriptors that it inherits.

        Raises:
            UserError: the server has gone.
        """
        return ForkedRun(self, int(self.ask({"options": list(options)}, descriptors=[output, *keep_open])))

    def living(self) -> list[ForkedRun]:
        """Return the runs of whose end nobody was told, also one whose start was broken off by an exception.

        Raises:
            UserError: the server has gone.
        """
        return [ForkedRun(self, pid) for pid in self.ask({})]

    def ask(self, request: Mapping[str, Any], *, descriptors: Sequence[int] = ()) -> Any:
        """Return the answer to a request.

        Raises:
            UserError: the server has gone.
        """
        self._num_asked += 1
        number = self._num_asked
        try:
            message = json.dumps({"number": number, **request}).encode()
            socket.send_fds(self._connection, [message], list(descriptors))
            while answer := self._connection.recv(MAX_MESSAGE_BYTES):
                answered, content = json.loads(answer)
                if answered == number:  # an earlier one is of a request that was broken off
                    return content
        except (BrokenPipeError, ConnectionResetError):
            pass
        raise UserError(
            "the process that starts the runs has ended (see above, or out of memory);"
            " the same command goes on with what is not finished"
        )


@contextmanager
def open_fork_server(module: str, *, variables: Mapping[str, str]) -> Iterator[ForkServer]:
    """Start a server of runs of a module, ready for the first.

    Args:
        variables: the environment of the server and of its runs.

    Raises:
        UserError: it could not import the module.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            # A session of its own: a terminal's Ctrl-C is for this process alone.
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), module],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=dict(variables),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        try:
            server = ForkServer(ours)
            server.living()
            yield server
        finally:
            process.kill()
            process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Forked:
    """What a forked process is to run, and where it prints."""

    options: list[str]
    output: int


def _serve(connection: socket.socket, prepare: Callable[[list[str]], None]) -> _Forked | None:
    """Answer requests; return what to run in a forked process, and None in the server when nobody is left to ask."""
    living: list[int] = []
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(connection, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS)
            if not message:
                return None
            request = json.loads(message)
            answer: Any = living
            if "poll" in request:
                pid, status = os.waitpid(request["poll"], os.WNOHANG)
                answer = os.waitstatus_to_exitcode(status) if pid else None
                if pid:
                    living.remove(pid)
            elif "options" in request:
                prepare(request["options"])
                begun, begins = os.pipe()
                answer = os.fork()
                if answer == 0:
                    connection.close()
                    os.close(begun)
                    os.setsid()
                    os.close(begins)
                    return _Forked(options=request["options"], output=descriptors[0])
                living.append(answer)
                os.close(begins)
                os.read(begun, 1)  # at its end the run has a session of its own, or is dead
                os.close(begun)
            for descriptor in descriptors:
                os.close(descriptor)
            connection.send(json.dumps([request["number"], answer]).encode())
        except (BrokenPipeError, ConnectionResetError):
            return None


def main(argv: Sequence[str]) -> None:
    connection, module = socket.socket(fileno=int(argv[0])), argv[1]
    ended_well: list[int] = []
    # The first to be registered is the last to be called: threads have ended then, and so has all that ends at exit.
    atexit.register(_leave, ended_well)
    prepare = getattr(importlib.import_module(module), "prepare", lambda options: None)
    gc.collect()
    gc.freeze()  # visiting what is imported would copy its pages, in every run
    forked = _serve(connection, prepare)
    if forked is None:
        os._exit(0)
    for number in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(forked.output, number)
    os.close(forked.output)
    sys.modules.pop(module)  # runpy would warn that it is there already
    sys.argv = [module, *forked.options]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as exit:
        ended_well += [0] if exit.code in (0, None) else []
        raise


def _leave(ended_well: Sequence[int]) -> None:
    if ended_well:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _is_alive(pid: int) -> bool:
    """Whether a process runs; a dead one need not have been collected, which takes for ever where nobody does."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    main(sys.argv[1:])
