"""Preparations that are killed for real, at random moments, and typed again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from started import check_ctrl_c, num_finished, processes_in, start, wait_for_shards, wait_for_the_end
from tiny_data import run_module, tree, write_pictures
from waiting import DEADLINE_S


def options(out: Path, *, workers: int) -> list[str]:
    shape = ["source=synthetic", "source.samples=1100", "source.val_samples=100", "layout.resolution=32"]
    return [*shape, "layout.shard_bytes=500000", f"engine.workers={workers}", f"out={out}"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tree of a preparation that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "set"
    ended = run_module("data_prep", *options(out, workers=1))
    assert ended.returncode == 0, ended.stderr
    return tree(out)


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds processes in /proc")
@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False], ids=["the whole group", "the parent alone"])
@pytest.mark.parametrize("workers", [1, 3])
def test_killed_at_random_moments_and_typed_again_it_ends_with_the_same_bytes(
    tmp_path: Path, whole: dict[str, bytes], workers: int, whole_group: bool
) -> None:
    out = tmp_path / "set"
    rng = random.Random(f"{workers} {whole_group}")
    finished: dict[str, int] = {}
    for moment in range(4):
        process = start(out.parent, *options(out, workers=workers))
        try:
            # The first kill falls anywhere from the start on; the others after one more shard, so that it goes on.
            wait_for_shards(process, out, num_finished(out) + moment)
            time.sleep(rng.random() * (0.05 if moment else 1.0))
        finally:
            os.killpg(process.pid, signal.SIGKILL) if whole_group else process.kill()
        wait_for_the_end(process, out.parent)
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


@pytest.mark.slow
def test_ctrl_c_ends_with_one_line_and_130(tmp_path: Path) -> None:
    out = tmp_path / "set"
    long = ["source.samples=200000", "layout.shard_bytes=3000000"]
    process = start(tmp_path, *options(out, workers=2), *long)
    wait_for_shards(process, out, 1)
    check_ctrl_c(process, out)


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
    process = start(tmp_path, *encoded_options(tmp_path / "pets", tmp_path / "whole", workers=2))
    _, stderr = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, stderr
    whole_s = time.monotonic() - started_s
    rng = random.Random(num_kills)
    whole = tree(tmp_path / "whole")
    assert "card.html" in whole
    out = tmp_path / "there" / "set"
    out.parent.mkdir()
    kills = 0
    while kills < num_kills:
        process = start(out.parent, *encoded_options(tmp_path / "pets", out, workers=2))
        time.sleep(rng.random() * whole_s)
        victims = processes_in(out.parent) or [process.pid]
        with suppress(ProcessLookupError):
            if rng.random() < 0.3:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                os.kill(rng.choice(victims), signal.SIGKILL)
            kills += 1
        wait_for_the_end(process, out.parent)
        if process.returncode == 0:
            assert tree(out) == whole
            shutil.rmtree(out)
    ended = run_module("data_prep", *encoded_options(tmp_path / "pets", out, workers=1))
    assert ended.returncode == 0, ended.stderr
    assert tree(out) == whole
