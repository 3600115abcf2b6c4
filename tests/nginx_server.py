"""A real web server on loopback (nginx) of a folder's files.

with nginx_server(folder) as url:       # "http://127.0.0.1:40123", of what lies in folder/www
    open_store(url)
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loopback import free_port
from waiting import wait_until


@contextmanager
def nginx_server(folder: Path) -> Iterator[str]:
    """Run the server for the block; where nginx is missing the test skips."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("no nginx here (apt-get install nginx)")
    folder.chmod(0o755)
    port = free_port()
    places = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; {'user root;' if os.geteuid() == 0 else ''}"
        f"events {{}} http {{ {places} access_log off; server {{ listen 127.0.0.1:{port}; root {folder}/www; }} }}"
    )
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: _answers(port), what="the start of nginx")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
