"""Whole preparations from and into an S3 server on loopback: killed, checked, damaged and repaired there."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from s3_server import s3_server
from started import start, wait_for_the_end
from tiny_data import run_module, tree, write_pictures

OPTIONS = ("layout.resolution=16", "layout.shard_bytes=60000", "max_rejected=1", "source.val_frac=0.1")
pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A bucket of the server, in the form of boto3's client: other code than that which is tested."""

    client: Any

    def tree(self, prefix: str) -> dict[str, bytes]:
        """Return every object below a prefix, by the rest of its name."""
        found: dict[str, bytes] = {}
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=f"{prefix}/"):
            for row in page.get("Contents", []):
                body = self.client.get_object(Bucket="bucket", Key=row["Key"])["Body"].read()
                found[row["Key"].removeprefix(f"{prefix}/")] = body
        return found

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket="bucket", Key=key, Body=content)


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with s3_server() as s3, pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        yield Bucket(client=s3.client)


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV list and its pictures, one of them bad."""
    folder = tmp_path_factory.mktemp("source") / "pets"
    write_pictures(folder, num_each=40, size=20)
    (folder / "owl" / "011.png").write_bytes(b"no picture")
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.glob("*/*.png"))]
    (folder / "list.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def whole(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "set"
    ended = run_module("data_prep", "source=csv", f"source.root={pets}/list.csv", *OPTIONS, f"out={out}")
    assert ended.returncode == 0, ended.stderr
    return tree(out)


def shards_of(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return what does not hold the place of the source, as dataset.json and the card do."""
    return {name: content for name, content in files.items() if name.startswith(("train/", "val/"))}


def prepared(out: str, root: str, *options: str) -> subprocess.CompletedProcess[str]:
    return run_module("data_prep", "source=csv", f"source.root={root}", *OPTIONS, *options, f"out={out}")


def test_a_bucket_gets_the_bytes_that_a_folder_gets(bucket: Bucket, pets: Path, whole: dict[str, bytes]) -> None:
    ended = prepared("s3://bucket/plain", f"{pets}/list.csv")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0].endswith("in s3://bucket/plain")
    assert bucket.tree("plain") == whole
    again = prepared("s3://bucket/plain", f"{pets}/list.csv")
    assert "already prepared" in again.stderr
    assert run_module("data_prep.verify", "path=s3://bucket/plain").returncode == 0


def test_a_source_in_a_bucket_gives_the_shards_of_one_in_a_folder(
    bucket: Bucket, pets: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    for name, content in tree(pets).items():
        bucket.put(f"pets/{name}", content)
    ended = prepared(str(tmp_path / "set"), "s3://bucket/pets/list.csv")
    assert ended.returncode == 0, ended.stderr
    assert shards_of(tree(tmp_path / "set")) == shards_of(whole)
    assert json.loads((tmp_path / "set" / "rejected.jsonl").read_text())["source_key"].startswith("owl/011.png")


def test_killed_while_it_uploads_and_typed_again_it_ends_with_the_same_objects(
    bucket: Bucket, pets: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    options = ["source=csv", f"source.root={pets}/list.csv", *OPTIONS, "engine.workers=2", "out=s3://bucket/killed"]
    rng = random.Random(0)
    for _ in range(5):
        process = start(tmp_path, *options)
        time.sleep(0.5 + 2 * rng.random())
        process.kill()
        wait_for_the_end(process, tmp_path)
        found = bucket.tree("killed")
        # Whatever is there under a shard's name is whole.
        assert {name: whole[name] for name in shards_of(found)} == shards_of(found)
    ended = prepared("s3://bucket/killed", f"{pets}/list.csv")
    assert ended.returncode == 0, ended.stderr
    assert bucket.tree("killed") == whole


def test_damage_in_a_bucket_is_found_by_name_and_repaired(bucket: Bucket, pets: Path, whole: dict[str, bytes]) -> None:
    for name, content in whole.items():
        bucket.put(f"damaged/{name}", content)
    shard = bytearray(whole["train/shard-000001.tar"])
    shard[3 * 2560 + 1700] ^= 1
    bucket.put("damaged/train/shard-000001.tar", bytes(shard))
    bucket.put("damaged/val/shard-000044.tar", b"?")
    bucket.client.delete_object(Bucket="bucket", Key="damaged/train/shard-000000.idx.npy")
    found = run_module("data_prep.verify", "path=s3://bucket/damaged")
    assert found.returncode == 1
    lines = found.stdout.splitlines()
    assert any("s3://bucket/damaged/train/shard-000001.tar: record 3 is damaged" in line for line in lines), lines
    assert any("train/shard-000000.idx.npy: the sidecar of shard-000000.tar" in line for line in lines), lines
    assert any("val/shard-000044.tar: not in the manifest" in line for line in lines), lines
    ended = run_module("data_prep.repair", "path=s3://bucket/damaged")
    assert (ended.returncode, ended.stdout) == (0, "s3://bucket/damaged: 2 shards rebuilt; whole\n"), ended.stderr
    assert bucket.tree("damaged") == whole


def test_no_bucket_and_no_server_are_one_line(bucket: Bucket, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = prepared("s3://nowhere/set", f"{pets}/list.csv")
    assert (missing.returncode, len(missing.stderr.splitlines())) == (2, 1)
    assert "nowhere" in missing.stderr
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    started_s = time.monotonic()
    refused = prepared("s3://bucket/set", f"{pets}/list.csv")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert time.monotonic() - started_s < 60
