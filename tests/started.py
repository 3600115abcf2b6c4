"""Preparations in processes of their own: started, waited for, interrupted, and what is left of them.

    process = start(tmp_path, "source=synthetic", "out=set")
    wait_for_shards(process, tmp_path / "set", 2)
    check_ctrl_c(process, tmp_path / "set")

The working folder tells whose a process is, so each test has its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tiny_data import ROOT, command
from waiting import DEADLINE_S, wait_until


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Start the real command with `folder` as its working folder, in a process group of its own."""
    return subprocess.Popen(
        command("data_prep", *options),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def num_finished(out: Path) -> int:
    """Return the number of shards with a receipt."""
    return len(list((out / "plan").glob("*.receipt.json")))


def wait_for_shards(process: subprocess.Popen[str], out: Path, wanted: int) -> None:
    """Return when so many shards are finished, or when the command has ended."""
    try:
        wait_until(
            lambda: num_finished(out) >= wanted or process.poll() is not None,
            what=f"{wanted} finished shards",
            every_s=0.002,
        )
    except AssertionError:
        process.kill()
        raise


def check_ctrl_c(process: subprocess.Popen[str], out: Path) -> None:
    """Interrupt a preparation: it must end with one line and 130, and leave nothing half done."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        stdout, stderr = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in stderr
    assert (process.returncode, stdout, stderr.splitlines()[-1]) == (130, "", "error: interrupted")
    assert not list(out.rglob(".*.part"))
    assert not (out / "dataset.json").exists()


def wait_for_the_end(process: subprocess.Popen[str], folder: Path) -> None:
    """Return when a killed command and all its workers are gone, which work in `folder`."""
    process.communicate(timeout=DEADLINE_S)
    wait_until(lambda: not processes_in(folder), what="the end of the workers of a killed parent")


def processes_in(folder: Path) -> list[int]:
    """Return the ids of living processes whose working folder is `folder`: the command and what it started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            alive = "Z" not in (process / "stat").read_text().rpartition(")")[2][:3]
            if alive and (process / "cwd").readlink() == folder:
                found.append(int(process.name))
        except OSError:
            pass
    return found
