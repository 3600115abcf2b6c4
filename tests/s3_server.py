"""A real S3 server on loopback (moto), in a process of its own, and other code than ours to look into it (boto3)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

_SERVE = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class S3:
    """The server's address, and boto3's client of it; the bucket `bucket` is there."""

    endpoint: str
    client: Any

    @property
    def environment(self) -> dict[str, str]:
        """What obstore has to be told to find it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        }


@contextmanager
def s3_server() -> Iterator[S3]:
    """Run the server for the block; where moto is missing the test skips."""
    boto3 = pytest.importorskip("boto3", reason="moto[server] is not installed")
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    command = [sys.executable, "-c", _SERVE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            assert server.stdout is not None
            endpoint = f"http://127.0.0.1:{int(server.stdout.readline())}"
            keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
            client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
            client.create_bucket(Bucket="bucket")
            yield S3(endpoint, client)
            client.close()
        finally:
            server.terminate()
