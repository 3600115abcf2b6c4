"""The live page's web server: read-only, for this machine unless told otherwise.

    with serving([Path("runs")], host="127.0.0.1", port=7860) as server:
        print(server.address)           # "http://127.0.0.1:7861" where 7860 is taken
        server.serve_forever()

A browser is made to refuse what does not come from here: no script, picture or address of another host.
"""

from __future__ import annotations

import errno
import logging
import socket
import socketserver
from collections.abc import Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pipeline.shards.errors import UserError
from pipeline.track.live.answers import Answer, answer
from pipeline.track.live.overview import RunIndex

log = logging.getLogger(__name__)

PORTS_TRIED = 50
OWN_NAMES = ("127.0.0.1", "localhost", "::1")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class LiveServer(ThreadingHTTPServer):
    """Answers each request in a thread of its own, which ends with the server."""

    daemon_threads = True
    # So that hundreds of requests, of several windows, find room.
    request_queue_size = 128

    def __init__(self, runs: RunIndex, *, host: str, port: int) -> None:
        self.runs = runs
        self.host = host
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    @property
    def is_private(self) -> bool:
        """Whether this machine alone can reach it."""
        return self.host in OWN_NAMES

    @property
    def address(self) -> str:
        """What to type into a browser."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_port}"

    def server_bind(self) -> None:
        # The standard one asks a name server for the host's full name, which takes long where there is none.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.host, int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        log.exception("a request failed")


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "tarmac", ""
    # A connection that says nothing for so long is closed, so that it does not keep a thread for good.
    timeout = 60.0

    def do_GET(self) -> None:
        if self._is_from_here():
            self._send(answer(self.server.runs, self.path))
        else:
            self._send(Answer(content=b"ask by the address that was printed\n", content_type="text/plain", status=403))

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _is_from_here(self) -> bool:
        """A page of another site, whose name was made to point at this machine, must not read along."""
        name = self.headers.get("Host", "").rpartition(":")[0].strip("[]")
        return not self.server.is_private or name in OWN_NAMES

    def _send(self, answered: Answer) -> None:
        self.send_response(answered.status)
        self.send_header("Content-Type", answered.content_type)
        self.send_header("Content-Length", str(len(answered.content)))
        self.send_header("Cache-Control", answered.keep)
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(answered.content)


def serving(roots: Sequence[Path], *, host: str, port: int) -> LiveServer:
    """Return a server that listens, at the port or at the next one that is free; it is to be closed.

    Raises:
        UserError: no such host, a port that is not ours to take, or none that is free.
    """
    runs = RunIndex(roots)
    last = port if port == 0 else min(port + PORTS_TRIED, 65_536) - 1
    for number in range(port, last + 1):
        try:
            return LiveServer(runs, host=host, port=number)
        except socket.gaierror:
            raise UserError(f"host={host}: no such address here; 127.0.0.1 wanted, or 0.0.0.0 for all") from None
        except PermissionError:
            raise UserError(f"port={number}: not ours to take; a number above 1023 wanted") from None
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UserError(f"host={host}: {error.strerror}; 127.0.0.1 wanted, or 0.0.0.0 for all") from None
    raise UserError(f"port={port}: taken, and so are those up to {last}; name another, or 0 for any")
