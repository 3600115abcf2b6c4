"""Every benchmark runs at a tiny size and prints its table; what it measured is not looked at."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from fork_server import run_forked

REPOSITORY = Path(__file__).resolve().parents[2]
LOADERS = ["memcpy alone", "floats written alone", "tarmac", "webdataset"]

JPEG_READERS = ["tarmac", "tarmac, no native code", "torch DataLoader, Pillow"]
IN_FOLDER = ["--jpegs", "{folder}/jpegs.tar", "--cache", "{folder}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "options", "rows"),
    [
        # Two tables: the second's two lines of heading count too.
        (
            "loader",
            ["--samples", "200", "--batch-size", "16", "--seconds", "0.1", "--only", *LOADERS, "--cache", "{folder}"],
            8,
        ),
        (
            "encoded",
            ["--images", "64", "--batch-size", "8", *IN_FOLDER, "--only", *JPEG_READERS],
            4,
        ),
        ("train_wait", ["--samples", "300", "--steps", "3", "--ranks", "1", "--cache", "{folder}"], 2),
        ("step_overhead", ["--samples", "600", "--steps", "30", "--cache", "{folder}", "batch.size=16"], 3),
        (
            "tracking",
            ["--samples", "600", "--steps", "40", "--only", "everything", "--cache", "{folder}", "batch.size=16"],
            2,
        ),
        ("run_starts", ["--runs", "1", "--jobs", "1", "--repeats", "1", "--cache", "{folder}"], 2),
        ("prepare", ["--samples", "50", "--jpegs", ""], 2),
        ("prepare_limits", ["--images", "20", "--jpegs", "{folder}/jpegs.tar"], 8),
        ("memory", ["--samples", "100", "3000", "--seconds", "60", "--cache", "{folder}"], 2),
        ("decode", ["--images", "3", "--resolutions", "32", "--jpegs", ""], 11),
        ("optimizers", ["--width", "8", "--features", "12", "--batch-size", "4", "--steps", "1", "--repeats", "1"], 6),
        (
            "strategies",
            ["--depth", "1", "--width", "8", "--features", "12", "--classes", "3", "--only", "fsdp"],
            1,
        ),
        ("listing", ["--classes", "5", "--images", "20", "--threads", "1", "2", "--cache", "{folder}"], 5),
    ],
)
def test_a_benchmark_prints_a_row_for_each_candidate(
    module: str, options: list[str], rows: int, tmp_path: Path
) -> None:
    write_jpegs(tmp_path / "jpegs.tar")
    told = [option.format(folder=tmp_path) for option in options]
    assert len(run(module, *told)[1]) == rows


@pytest.mark.slow
def test_epochs_from_a_server_have_a_row_each(tmp_path: Path) -> None:
    if not (shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")):
        pytest.skip("no nginx here (apt-get install nginx)")
    ways = ["tarmac, half a cache", "tarmac, warm", "webdataset"]
    options = ["--samples", "800", "--batch-size", "16", "--cache", str(tmp_path)]
    assert len(run("remote", *options, "--only", *ways)[1]) == 4


@pytest.mark.slow
def test_writers_of_other_formats_have_a_row_or_are_named_as_left_out(tmp_path: Path) -> None:
    write_jpegs(tmp_path / "jpegs.tar")
    lines, rows = run("prepare_peers", "--images", "20", "--jpegs", str(tmp_path / "jpegs.tar"))
    left_out = [line for line in lines if " left out: " in line]
    assert len(rows) + len(left_out) == 6
    assert any(row.startswith("| tarmac |") for row in rows)
    assert any(row.startswith("| webdataset |") for row in rows)


def run(module: str, *options: str) -> tuple[list[str], list[str]]:
    """Run a benchmark; return all lines that it prints, and the rows of its table."""
    done = run_forked(f"benchmarks.{module}", "--repeats", "1", *options, folder=REPOSITORY, timeout_s=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    return lines, table[2:]


def write_jpegs(path: Path) -> None:
    """Write a tar with a folder of JPEGs for each of two classes."""
    with tarfile.open(path, "w") as stream:
        for number in range(4):
            content = io.BytesIO()
            Image.effect_noise((150 + number, 130), 60).convert("RGB").save(content, format="JPEG")
            member = tarfile.TarInfo(f"photos/train/{'cat' if number % 2 else 'dog'}/{number}.jpg")
            member.size = len(content.getvalue())
            stream.addfile(member, io.BytesIO(content.getvalue()))
