"""Fixtures: the small archives, and a server on loopback with every bad habit."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from loopback import QuietHandler, listening
from tiny_sets import Server, TinyCifar, idx_bytes


@pytest.fixture(scope="session")
def tiny_cifar10() -> TinyCifar:
    return TinyCifar.make([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"], classes=10)


@pytest.fixture(scope="session")
def tiny_cifar100() -> TinyCifar:
    return TinyCifar.make(["train", "test"], classes=100)


@pytest.fixture(scope="session")
def tiny_idx() -> dict[str, bytes]:
    """The four files, gzipped, by name: 7 and 4 images of 5x4."""
    rng = np.random.default_rng(3)
    files = {}
    for split, rows in (("train", 7), ("t10k", 4)):
        images = rng.integers(0, 256, (rows, 5, 4), dtype=np.uint8)
        files[f"{split}-images-idx3-ubyte.gz"] = gzip.compress(idx_bytes(images))
        files[f"{split}-labels-idx1-ubyte.gz"] = gzip.compress(idx_bytes(np.arange(rows, dtype=np.uint8)))
    return files


@pytest.fixture
def server() -> Iterator[Server]:
    """Serve `files`; the habit of a path may be to cut (the body ends early), to hang (silence after the headers),
    to be endless (no length, no end in sight) or to lie (a length of a terabyte).
    """
    end = threading.Event()
    state = Server(url="", files={}, habits={}, requests=[])

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            body = state.files.get(self.path.lstrip("/"))
            if body is None:
                self.send_error(404)
                return
            habit = state.habits.get(self.path.lstrip("/"))
            self.send_response(200)
            if habit != "endless":
                self.send_header("Content-Length", str(10**12 if habit == "lie" else len(body)))
            self.end_headers()
            if habit == "hang":
                end.wait(20)
            elif habit == "endless":
                for _ in range(100):
                    self.wfile.write(bytes(100_000))
            else:
                self.wfile.write(body[: len(body) // 2] if habit == "cut" else body)

    with listening(Handler) as url:
        state.url = f"{url}/"
        yield state
        end.set()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is asked directly, whatever the machine's settings."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def executable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Return a function that puts a shell script under a name, first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return make
