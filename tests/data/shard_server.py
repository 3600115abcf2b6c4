"""A web server of a folder's files that misbehaves as it is told, and what the tests of the cache share.

with shard_server(folder) as server:
    server.faults["train/shard-000000.tar"] = ["500", "reset", "cut"]     # of its next requests, one after the other
    open_store(server.url)
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from loopback import QuietHandler, listening
from pipeline.data.cache_entry import CacheEntry, RemoteFile
from pipeline.shards.check import file_sha256


@dataclass
class ShardServer:
    """Attributes: faults by name ("*" for any), each used up by one request; requests counted by name."""

    url: str = ""
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    requests: Counter[str] = field(default_factory=Counter)
    # While it is away every connection is closed without a word.
    is_away: threading.Event = field(default_factory=threading.Event)
    bytes_per_s: float | None = None


@contextmanager
def shard_server(folder: Path) -> Iterator[ShardServer]:
    """Serve a folder for the block."""
    state = ShardServer()
    lock = threading.Lock()

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            name = unquote(self.path).lstrip("/")
            with lock:
                state.requests[name] += self.command == "GET"
                queue = state.faults[name] or state.faults["*"]
                fault = queue.pop(0) if queue and self.command == "GET" else "none"
            if state.is_away.is_set() or fault == "reset":
                self.hang_up()
                return
            path = folder / name
            if not path.is_file() or fault.isdigit():
                self.start(int(fault) if fault.isdigit() else 404, 0)
                return
            content = path.read_bytes()
            found = re.match(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
            first, end = (int(found[1]), min(int(found[2]) + 1, len(content))) if found else (0, len(content))
            body = content[first:end]
            if fault == "wrong":
                body = bytes([body[0] ^ 1]) + body[1:]
            self.start(206 if found else 200, len(body), span=f"bytes {first}-{end - 1}/{len(content)}")
            if self.command == "HEAD":
                return
            if fault == "cut":
                self.wfile.write(body[: len(body) // 2])
                self.hang_up()
            elif fault == "hang":
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                time.sleep(1.0)
                self.wfile.write(body[len(body) // 2 :])
            elif state.bytes_per_s is not None:
                for start in range(0, len(body), 4096):
                    self.wfile.write(body[start : start + 4096])
                    time.sleep(4096 / state.bytes_per_s)
            else:
                self.wfile.write(body)

        def start(self, status: int, length: int, *, span: str | None = None) -> None:
            self.send_response(status)
            self.send_header("Last-Modified", "Tue, 24 Nov 2026 08:24:16 GMT")
            self.send_header("Content-Length", str(length))
            if status == 206 and span:
                self.send_header("Content-Range", span)
            self.end_headers()

        def hang_up(self) -> None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    with listening(Handler) as url:
        state.url = url
        yield state


def write_entries(folder: Path, url: str, *, number: int, size_bytes: int, seed: int = 0) -> list[CacheEntry]:
    """Write files of bytes that differ, a large and a small one each, and return the entries of them at `url`."""
    entries = []
    for k in range(seed, seed + number):
        files = []
        for name, size in ((f"{k:03d}.tar", size_bytes), (f"{k:03d}.idx.npy", 100)):
            path = folder / name
            path.write_bytes((b"%06d" % k) * (size // 6) + b"x" * (size % 6))
            files.append(RemoteFile(location=url, name=name, size_bytes=size, sha256=file_sha256(path)))
        entries.append(CacheEntry(tuple(files)))
    return entries
