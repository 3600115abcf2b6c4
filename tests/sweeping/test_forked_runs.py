"""Forked runs: in all that a run can see of itself they are started ones; and what becomes of them without a parent."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.shards.errors import UserError
from pipeline.sweeping import forked_runs
from pipeline.sweeping.forked_runs import UNKNOWN_EXIT, ForkedRun, ForkServer, open_fork_server
from pipeline.sweeping.local_runs import Job, run_here, start
from tiny_data import ROOT
from waiting import wait_until

MODULE = """
import atexit, json, os, signal, sys, threading, time
if __name__ == "__main__":
    exec(sys.argv[1])
"""
SEEN = """
mask = [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])]
print(json.dumps({
    "name": [__name__, sys.modules["__main__"].__file__, sys.argv[0], sys.argv[2:]],
    "environ": dict(os.environ), "folder": os.getcwd(), "path": sys.path, "threads": threading.active_count(),
    "alone": os.getsid(0) == os.getpgid(0) == os.getpid(), "input": sys.stdin.read(), "mask": mask,
    "handlers": [str(signal.getsignal(number)).split(" at ")[0] for number in range(1, 32)],
    "closed": sorted(set(range(3)) - {int(number) for number in os.listdir("/proc/self/fd")}),
    "output": [os.fstat(1).st_ino == os.fstat(2).st_ino == os.stat(sys.argv[2]).st_ino, sys.stdout.write_through],
}, sort_keys=True))
"""


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    (tmp_path / "seen.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def server(environment: dict[str, str]) -> Iterator[ForkServer]:
    with open_fork_server("seen", variables=environment) as server:
        yield server


def fork(server: ForkServer, log: Path, code: str, *options: str, keep_open: tuple[int, ...] = ()) -> ForkedRun:
    with log.open("ab") as stream:
        return server.start([code, *options], output=stream.fileno(), keep_open=keep_open)


def test_a_forked_run_sees_of_itself_what_a_started_one_sees(tmp_path: Path, environment: dict[str, str]) -> None:
    log = tmp_path / "log"
    job = Job(number=0, command=[sys.executable, "-m", "seen", SEEN, str(log)], log=log)
    assert start(job, variables={}).wait() == 0
    assert list(run_here([job], num_at_once=1, forked=True)) == [(0, 0)]
    command, first, again, second = [line for line in log.read_text().splitlines() if line[:1] in "${"]
    assert command == again
    assert json.loads(first) == json.loads(second)
    assert json.loads(first)["output"] == [True, True]
    assert json.loads(first)["environ"]["PYTHONUNBUFFERED"] == environment["PYTHONUNBUFFERED"]


@pytest.mark.parametrize(
    ("code", "exit_code", "told"),
    [
        ("sys.exit(7)", 7, ""),
        ("atexit.register(print, 'at the end'); sys.exit('so it is')", 1, "so it is\nat the end\n"),
        ("atexit.register(print, 'at the end'); sys.exit()", 0, "at the end\n"),
        ("threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()", 0, "late\n"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV, ""),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -signal.SIGINT, None),
        ("1 / 0", 1, None),
    ],
)
def test_it_ends_as_python_ends(
    server: ForkServer, tmp_path: Path, code: str, exit_code: int, told: str | None
) -> None:
    log = tmp_path / "log"
    assert fork(server, log, code).wait(60) == exit_code
    printed = log.read_text()
    assert printed == told if told is not None else printed.startswith("Traceback")
    # The server is as it was.
    assert fork(server, log, "sys.exit(3)").wait(60) == 3


def test_what_a_module_prepares_is_there_in_runs_that_come_after(tmp_path: Path, environment: dict[str, str]) -> None:
    code = "PREPARED = []\ndef prepare(options):\n    PREPARED.append(options[-1])\n"
    (tmp_path / "kept.py").write_text(code)
    (tmp_path / "prepared.py").write_text(f"import kept\nfrom kept import prepare\n{MODULE}")
    log = tmp_path / "log"
    with open_fork_server("prepared", variables=environment) as server:
        for name in ("first", "second"):
            assert fork(server, log, "print(*kept.PREPARED)", name).wait(60) == 0
    assert log.read_text() == "first\nfirst second\n"


def test_descriptors_are_held_by_the_runs_and_not_by_the_server(server: ForkServer, tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    run = fork(server, tmp_path / "log", "time.sleep(60)", keep_open=(lock,))
    os.close(lock)
    with (tmp_path / "lock").open() as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        run.terminate()
        assert run.wait(60) == -signal.SIGTERM
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_run_whose_start_was_broken_off_is_known_to_the_server(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after the request and before its answer, which the next one must not take for its own."""
    send = forked_runs.socket.send_fds

    def send_and_break_off(*arguments: object) -> None:
        send(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(forked_runs.socket, "send_fds", send_and_break_off)
        with pytest.raises(KeyboardInterrupt):
            fork(server, tmp_path / "log", "time.sleep(60)")
    (run,) = server.living()
    assert run.poll() is None
    run.terminate()
    assert run.wait(60) == -signal.SIGTERM
    assert server.living() == []


@pytest.mark.parametrize(("first", "grace_s"), [("", 20), ("signal.signal(signal.SIGTERM, signal.SIG_IGN); ", 0.1)])
def test_where_the_server_is_killed_its_runs_are_ended_and_the_user_is_told(
    tmp_path: Path, environment: dict[str, str], first: str, grace_s: float
) -> None:
    code = f"{first}open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{os.getppid()}} .'); time.sleep(600)"
    job = Job(number=0, command=[sys.executable, "-m", "seen", code], log=tmp_path / "log")
    short = Job(number=1, command=[sys.executable, "-m", "seen", "time.sleep(0.01)"], log=tmp_path / "log1")
    runs = run_here([job, short], num_at_once=2, forked=True, grace_s=grace_s)
    assert next(runs) == (1, 0)
    wait_until(lambda: (tmp_path / "pids").exists() and "." in (tmp_path / "pids").read_text(), what="the run")
    run, server = map(int, (tmp_path / "pids").read_text().split()[:2])
    os.kill(server, signal.SIGKILL)
    with pytest.raises(UserError, match=r"has ended .* the same command goes on"):
        next(runs)
    wait_until(lambda: not is_alive(run), what="the end of the run")


def test_of_a_run_without_its_server_the_end_is_seen_and_not_its_code(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with open_fork_server("seen", variables=environment) as server:
        run = fork(server, tmp_path / "log", "time.sleep(600)")
        os.kill(parent_of(run.pid), signal.SIGKILL)
        with pytest.raises(UserError, match="has ended"):
            run.poll()
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(0.05)
        os.kill(run.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(run.pid), what="the end of the run")
        assert run.wait(60) == UNKNOWN_EXIT


def test_runs_outlive_a_killed_parent_and_the_server_does_not(tmp_path: Path, environment: dict[str, str]) -> None:
    pids = tmp_path / "pids"
    code = f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{os.getppid()}} .'); time.sleep(600)"
    parent = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import sys; from pathlib import Path; from pipeline.sweeping.local_runs import Job, run_here;"
            f" list(run_here([Job(number=0, command=[sys.executable, '-m', 'seen', {code!r}],"
            f" log=Path({str(tmp_path / 'log')!r}))], num_at_once=1, forked=True))",
        ],
        env=environment,
    )
    wait_until(lambda: pids.exists() and "." in pids.read_text(), what="the run")
    run, server = map(int, pids.read_text().split()[:2])
    parent.kill()
    parent.wait()
    try:
        wait_until(lambda: not is_alive(server), what="the end of the server")
        assert is_alive(run)
    finally:
        os.kill(run, signal.SIGKILL)


def test_a_module_that_cannot_be_imported_is_an_error_of_the_start(environment: dict[str, str]) -> None:
    told = pytest.raises(UserError, match="the process that starts the runs has ended")
    with told, open_fork_server("nowhere", variables=environment):
        pass


@pytest.mark.slow
def test_what_training_imports_starts_no_thread_and_obeys_the_number_of_threads(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "as_training.py").write_text(f"import torch, numpy\nfrom pipeline.train import prepare\n{MODULE}")
    of_server = "print(len(os.listdir(f'/proc/{os.getppid()}/task')))"
    of_run = "print(torch.get_num_threads(), float((torch.ones(999, 999) @ torch.ones(999, 999)).max()))"
    blas = "print((numpy.ones((999, 999)) @ numpy.ones((999, 999))).max())"
    for wanted in (1, min(2, len(os.sched_getaffinity(0)))):
        log = tmp_path / f"log{wanted}"
        variables = {**environment, "OMP_NUM_THREADS": str(wanted)}
        with open_fork_server("as_training", variables=variables) as server:
            for code in (of_server, of_run, blas):
                assert fork(server, log, code).wait(60) == 0
        num_threads, *printed = log.read_text().split()
        # numpy's OpenBLAS starts its own as it is imported, and sees to forks itself.
        assert int(num_threads) <= wanted
        assert printed == [str(wanted), "999.0", "999.0"]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
