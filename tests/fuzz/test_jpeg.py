"""The native JPEG decoder, fed with damaged files and hostile jobs in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import native
from pipeline.data.decode import native_library
from tiny_data import ROOT

PROGRAM = str(Path(__file__).with_name("jpeg_hostile.py"))
MOST_MEMORY_MB = 300


def run(*arguments: str, **environment: str) -> str:
    found = subprocess.run(
        [sys.executable, PROGRAM, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    return found.stdout


def test_damaged_files_and_hostile_jobs_are_refused_or_decoded_within_bounds() -> None:
    library = native_library()
    if isinstance(library, native.Absent):
        pytest.skip(library.reason)
    told = re.fullmatch(r"4000 inputs: (\d+) decoded, (\d+) refused; peak (\d+) MB\n", run("4000"))
    assert told is not None
    decoded, refused, peak_mb = map(int, told.groups())
    assert decoded > 200
    assert refused > 200
    assert peak_mb < MOST_MEMORY_MB


@pytest.mark.slow
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    compiler = shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no gcc for Linux")
    library = tmp_path / "native.so"
    sources = sorted(map(str, Path(native.__file__).parent.glob("*.c")))
    flags = ["-O1", "-g", "-std=gnu11", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-shared", "-fPIC"]
    built = subprocess.run([compiler, *flags, "-o", str(library), *sources, "-ldl", "-lm"], capture_output=True)
    names = ("libasan.so", "libubsan.so")
    found = [
        subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        for name in names
    ]
    if built.returncode or not all(Path(path).is_absolute() for path in found):
        pytest.skip("gcc without sanitizers")
    told = run("20000", str(library), LD_PRELOAD=" ".join(found), ASAN_OPTIONS="detect_leaks=0")
    assert told.startswith(("20000 inputs: ", "skipped: "))
