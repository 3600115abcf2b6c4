"""Processes of a sweep: how many at once, with what of the machine, and how they end."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from pipeline.sweeping.local_runs import Job, last_line, run_here, slot_environment, visible_gpus
from tiny_data import ROOT
from waiting import wait_until

# A process a run, or forks of one that has imported the module.
both_ways = pytest.mark.parametrize("forked", [False, True], ids=["started", "forked"])


@pytest.fixture(autouse=True)
def run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module in the way of Python that runs the code that it is given."""
    (tmp_path / "run_code.py").write_text('import sys\nif __name__ == "__main__":\n    exec(sys.argv[1])\n')
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")


def job(number: int, folder: Path, code: str) -> Job:
    return Job(number=number, command=[sys.executable, "-m", "run_code", code], log=folder / f"{number}.log")


@both_ways
def test_as_many_run_at_once_as_asked_for_and_each_code_is_told(tmp_path: Path, *, forked: bool) -> None:
    """Each process waits until another one is there at the same time; three never are."""
    code = """
import os, pathlib, sys, time
here = pathlib.Path({folder!r}); me = here / "{number}.alive"; me.touch()
other = lambda: len(list(here.glob("*.alive")))
seen = 0
for _ in range(6000):
    seen = max(seen, other())
    if seen >= 2: break
    time.sleep(0.01)
time.sleep(0.2)
seen = max(seen, other())
me.unlink()
print(os.environ["SHARE"])
sys.exit(seen)
"""
    jobs = [job(number, tmp_path, code.format(folder=str(tmp_path), number=number)) for number in range(4)]
    ended = dict(run_here(jobs, num_at_once=2, environment=lambda slot: {"SHARE": "half"}, forked=forked))
    assert ended == dict.fromkeys(range(4), 2)
    assert {(tmp_path / f"{number}.log").read_text().splitlines()[-1] for number in range(4)} == {"half"}


def test_slots_have_their_own_variables(tmp_path: Path) -> None:
    jobs = [job(number, tmp_path, "import os; exit(int(os.environ['SLOT']) + 5)") for number in range(2)]
    assert dict(run_here(jobs, num_at_once=2, environment=lambda slot: {"SLOT": str(slot)})) == {0: 5, 1: 6}


@both_ways
def test_left_early_all_processes_are_asked_to_end_and_then_made_to(tmp_path: Path, *, forked: bool) -> None:
    polite = "import signal,sys,time,pathlib\nsignal.signal(15, lambda *_: sys.exit(pathlib.Path('{0}/saved').touch()))"
    stubborn = "import signal,time,pathlib\nsignal.signal(15, signal.SIG_IGN)"
    ready = "\npathlib.Path('{0}/ready{1}').write_text(str(__import__('os').getpid()))\ntime.sleep(600)"
    jobs = [
        job(0, tmp_path, (polite + ready).format(tmp_path, 0)),
        job(1, tmp_path, (stubborn + ready).format(tmp_path, 1)),
        job(2, tmp_path, "pass"),
    ]
    runs = run_here(jobs, num_at_once=3, grace_s=2.0, forked=forked)
    assert next(runs) == (2, 0)
    wait_until(lambda: len([p for p in tmp_path.glob("ready*") if p.read_text()]) == 2, what="both are ready")
    pids = [int(path.read_text()) for path in tmp_path.glob("ready*")]
    runs.close()
    assert (tmp_path / "saved").exists()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_each_slot_has_its_part_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = ["0", "1", "2", "3"]
    two = [slot_environment(slot, num_slots=2, ranks=2, gpus=gpus)["CUDA_VISIBLE_DEVICES"] for slot in range(2)]
    assert two == ["0,1", "2,3"]
    shared = [
        slot_environment(slot, num_slots=3, ranks=1, gpus=["5", "7"])["CUDA_VISIBLE_DEVICES"] for slot in range(3)
    ]
    assert shared == ["5", "7", "5"]
    assert "CUDA_VISIBLE_DEVICES" not in slot_environment(0, num_slots=1, ranks=1, gpus=gpus)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    alone = slot_environment(0, num_slots=1, ranks=1, gpus=[])
    assert int(alone["OMP_NUM_THREADS"]) == len(os.sched_getaffinity(0))
    assert slot_environment(0, num_slots=1000, ranks=2, gpus=[])["OMP_NUM_THREADS"] == "1"
    for given, wanted in (("1", "1"), ("1000000", alone["OMP_NUM_THREADS"]), ("4,2", alone["OMP_NUM_THREADS"])):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert slot_environment(0, num_slots=1, ranks=1, gpus=[])["OMP_NUM_THREADS"] == wanted
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-ab")
    assert visible_gpus(2) == ["3", "GPU-ab"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus(2) == ["0", "1"]


@both_ways
def test_the_error_told_is_that_of_the_last_try(tmp_path: Path, *, forked: bool) -> None:
    codes = [
        "print('error: old')\nexit(2)",
        "print('fine so far')\nexit(3)",
        "print('error: new')\nprint('more')\nexit(2)",
    ]
    told = []
    for code in codes:
        list(run_here([job(0, tmp_path, code)], num_at_once=1, forked=forked))
        told.append(last_line(tmp_path / "0.log"))
    assert told == ["error: old", "fine so far", "error: new"]
    assert last_line(tmp_path / "none") == "it printed nothing"


@both_ways
def test_a_killed_process_tells_the_signal(tmp_path: Path, *, forked: bool) -> None:
    started_s = time.monotonic()
    code = "import os; os.kill(os.getpid(), 9)"
    assert list(run_here([job(0, tmp_path, code)], num_at_once=1, forked=forked)) == [(0, -signal.SIGKILL)]
    assert time.monotonic() - started_s < 120
