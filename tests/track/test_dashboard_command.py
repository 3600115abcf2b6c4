"""`python -m pipeline.dashboard` as it is typed: an address, one line for what a user can mend, and a clean end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from dashboard_runs import strict_json, write_run
from tiny_data import ROOT, command, run_module
from waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.slow


@contextmanager
def dashboard(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Run the command in `folder`; the values are the process and what it printed up to the address."""
    process = subprocess.Popen(
        command("pipeline.dashboard", *options),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = []
        while not lines or not lines[-1].startswith("http"):
            lines.append(process.stdout.readline())
            assert lines[-1], process.communicate()[1]
        yield process, lines
    finally:
        process.kill()
        process.communicate()


def run_names(address: str) -> list[str]:
    with urlopen(f"{address}/api/runs") as answered:
        return [run["name"] for run in strict_json(answered.read())["runs"]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_end(tmp_path: Path, number: signal.Signals) -> None:
    write_run(tmp_path / "runs" / "0001", steps=range(1, 4))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with dashboard(tmp_path, f"port={port}") as (process, lines):
            address = lines[-1].split()[0]
            assert lines[0] == f"port {port} is taken\n"
            assert lines[1] == "1 run in runs; new ones appear by themselves\n"
            assert run_names(address) == ["0001"]
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, stdout, stderr) == (0, "\nended\n", "")


def test_it_can_be_started_before_the_first_run(tmp_path: Path) -> None:
    with dashboard(tmp_path, "port=0") as (_, lines):
        assert lines[0] == "0 runs in runs; new ones appear by themselves\n"
        write_run(tmp_path / "runs" / "0001", steps=range(1, 4))
        # Folders are looked through every few seconds.
        wait_until(lambda: run_names(lines[-1].split()[0]) == ["0001"], what="the first run in the list", every_s=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["runs=[nowhere]"], "runs=nowhere: no such folder"),
        (["runs=[]"], "at least one folder wanted"),
        (["port=70000"], "port=70000: 0 to 65535 wanted"),
        (["prot=1"], "did you mean port"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(options: list[str], message: str) -> None:
    done = run_module("pipeline.dashboard", *options)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr
