"""A disk that is really full: a small tmpfs, mounted in a namespace of its own where this system allows that."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tiny_data import ROOT, command, write_pictures

UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]


def may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not may_mount(), reason="no file system can be mounted in a user namespace here")

# Two runs: on the small disk, then, the disk made larger, the same command again.
SCRIPT = """
mount -t tmpfs -o size=$1 tmpfs "$2" || exit 99
shift 2
"$@" 2> first.err
echo "first $?"
find disk -name '*.part' -o -name dataset.json | sed 's/^/left /'
ls disk | sed 's/^/there /'
mount -o remount,size=64m tmpfs disk
"$@" > /dev/null 2> second.err
echo "second $?"
find disk -name '*.part' -o -name dataset.json | sed 's/^/then /'
"""


def run_on_small_disk(folder: Path, *, size: str, options: list[str]) -> tuple[list[str], str]:
    """Return what the script printed and the first command's stderr."""
    (folder / "disk").mkdir()
    arguments = [size, "disk", *command("data_prep", *options, "out=disk/set")]
    ended = subprocess.run(
        [*UNSHARE, "sh", "-c", SCRIPT, "sh", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (folder / "second.err").exists(), ended.stderr
    return ended.stdout.splitlines(), (folder / "first.err").read_text()


@pytest.mark.slow
def test_too_small_a_disk_is_told_before_any_work(tmp_path: Path) -> None:
    options = ["source=synthetic", "source.samples=500", "layout.resolution=64", "engine.workers=1"]
    printed, stderr = run_on_small_disk(tmp_path, size="4m", options=options)
    assert printed == ["first 2", "second 0", "then disk/set/dataset.json"]
    assert "GB free on its disk; free some space or choose another out" in stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fills_up_on_the_way_is_one_line_and_going_on_works(tmp_path: Path, workers: int) -> None:
    """Shards alone would fit, and so the plan lets it begin; with sidecars, receipts and whole pages they do not."""
    write_pictures(tmp_path / "pets", num_each=30, size=120, extension="png")
    options = [
        "source=folder",
        "source.root=pets",
        "layout=packed",
        "layout.resolution=100",
        "layout.shard_bytes=200000",
    ]
    # 90 records of 32,256 bytes and 2 to 20 files of sidecars and receipts: the room is for the shards and no more.
    printed, stderr = run_on_small_disk(tmp_path, size="2920k", options=[*options, f"engine.workers={workers}"])
    assert printed == ["first 2", "there set", "second 0", "then disk/set/dataset.json"]
    last = stderr.splitlines()[-1]
    assert last.startswith("error: the disk is full")
    assert last.endswith("free some space, then type the same command again")
    assert "Traceback" not in stderr
