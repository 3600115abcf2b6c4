"""The native library: what is loaded, and what is said where it is not."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline import native

FOLDER = Path(native.__file__).parent


def test_a_switch_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TARMAC_NATIVE", "0")
    found = native.load()
    assert isinstance(found, native.Absent)
    assert "TARMAC_NATIVE=0" in found.reason


def test_where_it_was_not_built_the_reason_says_how_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TARMAC_NATIVE", raising=False)
    monkeypatch.setattr(native, "library_path", lambda: tmp_path / "_native.so")
    found = native.load()
    assert isinstance(found, native.Absent)
    assert "was not built" in found.reason
    assert "pip install" in found.reason


def test_a_file_that_is_no_library_is_a_reason_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TARMAC_NATIVE", raising=False)
    (tmp_path / "_native.so").write_bytes(b"no library")
    monkeypatch.setattr(native, "library_path", lambda: tmp_path / "_native.so")
    found = native.load()
    assert isinstance(found, native.Absent)
    assert "cannot be loaded" in found.reason


def test_the_interface_has_one_number_in_c_and_in_python() -> None:
    assert f"#define TARMAC_INTERFACE {native.INTERFACE}\n" in (FOLDER / "native.h").read_text()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_sources_compile_without_warnings_headers_of_python_or_of_libjpeg(tmp_path: Path) -> None:
    library = tmp_path / "native.so"
    sources = sorted(map(str, FOLDER.glob("*.c")))
    for source in sources:
        for header in re.findall(r'#include [<"]([^>"]+)', Path(source).read_text()):
            assert "jpeg" not in header, source
            assert header != "Python.h", source
    flags = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, "-o", str(library), *sources, "-ldl"], check=True)
    assert ctypes.CDLL(str(library)).tarmac_interface() == native.INTERFACE
