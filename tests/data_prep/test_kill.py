"""Preparations that are killed for real, at random moments, and typed again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tiny_data import ROOT, command, run_module, tree, write_pictures


def options(out: Path, *, workers: int) -> list[str]:
    shape = ["source=synthetic", "source.samples=1100", "source.val_samples=100", "layout.resolution=32"]
    return [*shape, "layout.shard_bytes=500000", f"engine.workers={workers}", f"out={out}"]


def processes_of(out: Path) -> list[int]:
    """Return the ids of living processes whose working folder is `out`'s parent: the command and its workers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cwd").readlink() == out.parent and "Z" not in (folder / "stat").read_text().split(")")[1][:3]:
                found.append(int(folder.name))
        except OSError:
            pass
    return found


def start(out: Path, *, workers: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command("data_prep", *options(out, workers=workers)),
        cwd=out.parent,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_until_none(out: Path) -> None:
    deadline_s = time.monotonic() + 60
    while processes_of(out):
        assert time.monotonic() < deadline_s, "a worker outlives its parent"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tree of a preparation that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "set"
    ended = run_module("data_prep", *options(out, workers=1))
    assert ended.returncode == 0, ended.stderr
    return tree(out)


def num_finished(out: Path) -> int:
    return len(list((out / "plan").glob("*.receipt.json")))


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds processes in /proc")
@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False], ids=["the whole group", "the parent alone"])
@pytest.mark.parametrize("workers", [1, 3])
def test_killed_at_random_moments_and_typed_again_it_ends_with_the_same_bytes(
    tmp_path: Path, whole: dict[str, bytes], workers: int, whole_group: bool
) -> None:
    out = tmp_path / "set"
    rng = random.Random(f"{workers} {whole_group}")
    deadline_s = time.monotonic() + 60
    finished: dict[str, int] = {}
    for moment in range(4):
        process = start(out, workers=workers)
        try:
            # The first kill falls anywhere from the start on; the others after one more shard, so that it goes on.
            wanted = num_finished(out) + moment
            while process.poll() is None and num_finished(out) < wanted and time.monotonic() < deadline_s:
                time.sleep(0.001)
            time.sleep(rng.random() * (0.05 if moment else 1.0))
        finally:
            os.killpg(process.pid, signal.SIGKILL) if whole_group else process.kill()
            process.wait()
        wait_until_none(out)
        if (out / "dataset.json").exists():
            break
        # A shard with a receipt is never written again.
        for path in (out / "plan").glob("*.receipt.json"):
            split, number = path.name.split(".")[0].split("-")
            shard = out / split / f"shard-{number}.tar"
            written_ns = finished.setdefault(str(shard), shard.stat().st_mtime_ns)
            assert written_ns == shard.stat().st_mtime_ns
    ended = run_module("data_prep", *options(out, workers=workers))
    assert ended.returncode == 0, ended.stderr
    assert tree(out) == whole
    assert all(Path(shard).stat().st_mtime_ns == written_ns for shard, written_ns in finished.items())


def start_long(out: Path) -> subprocess.Popen[str]:
    """Start a preparation of two workers that would last, and return when a shard is finished."""
    process = subprocess.Popen(
        command("data_prep", *options(out, workers=2), "source.samples=200000", "layout.shard_bytes=3000000"),
        cwd=out.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline_s = time.monotonic() + 60
    while num_finished(out) < 1 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return process


def end_of(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return exit code, stdout and the last line of stderr, in which no traceback may be."""
    try:
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in stderr
    return process.returncode, stdout, stderr.splitlines()[-1]


@pytest.mark.slow
def test_ctrl_c_ends_with_one_line_and_130(tmp_path: Path) -> None:
    out = tmp_path / "set"
    process = start_long(out)
    os.killpg(process.pid, signal.SIGINT)
    assert end_of(process) == (130, "", "error: interrupted")
    assert not list(out.rglob(".*.part"))
    assert not (out / "dataset.json").exists()


def encoded_options(root: Path, out: Path, *, workers: int) -> list[str]:
    shards = ["layout=encoded", "layout.shard_bytes=40000", "max_rejected=3"]
    return ["source=folder", f"source.root={root}", *shards, f"engine.workers={workers}", f"out={out}"]


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds processes in /proc")
@pytest.mark.slow
def test_any_process_killed_at_any_moment_of_the_whole_way_changes_no_byte(tmp_path: Path) -> None:
    """From the first import over listing, plan, shards, manifests and card to the end; TARMAC_KILLS=100 kills more."""
    num_kills = int(os.environ.get("TARMAC_KILLS", "10"))
    write_pictures(tmp_path / "pets", num_each=120, size=16)
    (tmp_path / "pets" / "cat" / "007.png").write_bytes(b"no picture")
    started_s = time.monotonic()
    ended = run_module("data_prep", *encoded_options(tmp_path / "pets", tmp_path / "whole", workers=2))
    assert ended.returncode == 0, ended.stderr
    whole_s = time.monotonic() - started_s
    rng = random.Random(num_kills)
    whole = tree(tmp_path / "whole")
    assert "card.html" in whole
    out = tmp_path / "there" / "set"
    out.parent.mkdir()
    kills = 0
    while kills < num_kills:
        process = subprocess.Popen(
            command("data_prep", *encoded_options(tmp_path / "pets", out, workers=2)),
            cwd=out.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(rng.random() * whole_s)
        victims = processes_of(out) or [process.pid]
        with suppress(ProcessLookupError):
            if rng.random() < 0.3:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                os.kill(rng.choice(victims), signal.SIGKILL)
            kills += 1
        process.wait(timeout=60)
        wait_until_none(out)
        if process.returncode == 0:
            assert tree(out) == whole
            shutil.rmtree(out)
    ended = run_module("data_prep", *encoded_options(tmp_path / "pets", out, workers=1))
    assert ended.returncode == 0, ended.stderr
    assert tree(out) == whole
