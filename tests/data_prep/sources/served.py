"""A folder on a web server on loopback that answers HEAD and ranges, as nginx does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from loopback import QuietHandler, listening


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the files below a folder; the value is the folder's URL, without a last slash."""

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            file = folder / unquote(self.path).lstrip("/")
            if not file.is_file():
                self.send_error(404)
                return
            content = file.read_bytes()
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            self.send_response(206 if wanted else 200)
            if wanted:
                start, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
                self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
                content = content[start : end + 1]
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Last-Modified", self.date_time_string(file.stat().st_mtime))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

    with listening(Handler) as url:
        yield url
