"""Against real servers on loopback: nginx, an S3 server (moto), and a web server with bad habits."""

from __future__ import annotations

import re
import socket
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data_prep.archives.tar import walk_tar, walk_tars_concurrently
from data_prep.archives.zip import list_zip, read_zip_entry
from loopback import QuietHandler, free_port, listening
from nginx_server import nginx_server
from pipeline.shards.errors import DamageError, UserError
from pipeline.storage import Store, StoredFile, open_store, remote
from s3_server import S3, s3_server
from tar_bytes import write_tar

BODY = bytes(n * 7 % 251 for n in range(100_000))
NAMES = ["train/a b.tar", "train/é#?%25.tar", "train-2/x+y&z=1;,@:~'()*!.bin", "plain"]


@dataclass
class BadServer:
    """A web server of `BODY` under any name; the name says how it misbehaves."""

    url: str = ""
    num_requests: int = 0


@pytest.fixture
def bad_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BadServer]:
    monkeypatch.setattr(remote, "BODY_RETRY_DELAYS_S", (0.01, 0.01))
    state = BadServer()

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.start(200, {"Content-Length": len(BODY)})

        def do_GET(self) -> None:
            state.num_requests += 1
            found = re.match(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
            first, end = (int(found[1]), min(int(found[2]) + 1, len(BODY))) if found else (0, len(BODY))
            habit = self.path.rpartition("/")[2]
            if habit.endswith("-twice") and state.num_requests > 2:
                habit = "none"
            habit = habit.removesuffix("-twice")
            if habit.isdigit():
                self.start(int(habit), {"Content-Length": 0})
            elif habit == "reset":
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            elif habit == "full":
                self.start(200, {"Content-Length": len(BODY)}, BODY)
            elif habit == "other-range":
                self.start_part(first + 5, end + 5, BODY[first + 5 : end + 5])
            elif habit == "cut":
                self.start_part(first, end, BODY[first : (first + end) // 2])
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            elif habit == "short":
                self.start_part(first, end, BODY[first : end - 50], length=end - first - 50)
            elif habit == "long":
                self.start_part(first, end, BODY[first : end + 50], length=end - first + 50)
            elif found:
                self.start_part(first, end, BODY[first:end])
            else:
                self.start(200, {"Content-Length": len(BODY)}, BODY)

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.start(500, {"Content-Length": 0})

        do_POST = do_PUT

        def start(self, status: int, headers: dict[str, Any], body: bytes = b"") -> None:
            self.send_response(status)
            for name, value in {"Last-Modified": "Tue, 24 Nov 2026 08:24:16 GMT", **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

        def start_part(self, first: int, end: int, body: bytes, *, length: int | None = None) -> None:
            span = f"bytes {first}-{end - 1}/{len(BODY)}"
            self.start(206, {"Content-Length": length or end - first, "Content-Range": span}, body)

    with listening(Handler) as url:
        state.url = f"{url}/data"
        yield state


@pytest.mark.parametrize("habit", ["none", "500-twice", "503-twice", "reset-twice", "cut-twice", "short-twice"])
def test_what_passes_is_asked_for_again_and_the_bytes_are_right(habit: str, bad_server: BadServer) -> None:
    content = open_store(bad_server.url).read_at(habit, offset=1000, size_bytes=2000)
    assert content == BODY[1000:3000]
    assert bad_server.num_requests == (1 if habit == "none" else 3)


@pytest.mark.parametrize(
    ("habit", "error", "reason"),
    [
        ("cut", DamageError, "the connection broke off before all bytes were there"),
        ("short", DamageError, "1950 bytes came where 2000 were wanted"),
        ("long", DamageError, "2050 bytes came where 2000 were wanted"),
        ("other-range", UserError, "Requested 1000..3000, got 1005..3005"),
        ("full", UserError, r"the server does not give parts of files \(HTTP ranges\)"),
        ("500", UserError, "500 Internal Server Error"),
        ("403", UserError, "not permitted"),
        ("404", UserError, "missing"),
    ],
)
def test_never_other_bytes_than_asked_but_one_line_with_url_and_range(
    habit: str, error: type[UserError], reason: str, bad_server: BadServer
) -> None:
    started_s = time.monotonic()
    with pytest.raises(error, match=reason) as caught:
        open_store(bad_server.url).read_at(habit, offset=1000, size_bytes=2000)
    assert time.monotonic() - started_s < 60
    assert str(caught.value).startswith(f"{bad_server.url}/{habit}: ")
    assert habit == "404" or "reading bytes 1000 to 3000" in str(caught.value)
    assert "\n" not in str(caught.value)


def refusing_url() -> str:
    """Return a URL of a port at which nobody listens."""
    return f"http://127.0.0.1:{free_port()}/data"


@pytest.mark.parametrize(
    ("url", "reason"),
    [(None, "no connection .Connection refused"), ("http://no-such-host.invalid/data", "no connection .*lookup")],
)
@pytest.mark.slow
def test_no_network_is_one_line_within_seconds(url: str | None, reason: str) -> None:
    url = url or refusing_url()
    started_s = time.monotonic()
    for call in (lambda: open_store(url).size_of("a"), lambda: open_store(url).read_at("a", offset=0, size_bytes=1)):
        with pytest.raises(UserError, match=reason) as caught:
            call()
        assert str(caught.value).startswith(f"{url}/a: ")
        assert "\n" not in str(caught.value)
    assert time.monotonic() - started_s < 60


def test_a_web_server_neither_lists_nor_takes_files() -> None:
    store = open_store("https://example.invalid/data")
    with pytest.raises(UserError, match="a web server does not list its files"):
        store.list_files()
    with pytest.raises(UserError, match="a web server takes no files"):
        store.remove("a")
    with pytest.raises(UserError, match="a web server takes no files"), store.publish("a"):
        pass
    assert store.local_path("a") is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://host/data?token=secret", "has a query, a fragment or a password"),
        ("https://user:secret@host/data", "has a query, a fragment or a password"),
        ("s3:///data", "Unable to recognise URL"),
    ],
)
def test_a_url_that_is_no_prefix_is_an_error_that_shows_no_secret(url: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


@dataclass
class Nginx:
    url: str
    root: Path


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "www" / "data").mkdir(parents=True)
    with nginx_server(folder) as url:
        yield Nginx(f"{url}/data", folder / "www" / "data")


def test_files_behind_nginx_have_the_same_sizes_and_bytes(nginx: Nginx) -> None:
    store = open_store(nginx.url)
    for name in NAMES:
        (nginx.root / name).parent.mkdir(exist_ok=True)
        (nginx.root / name).write_bytes(BODY)
        assert store.size_of(name) == len(BODY)
        assert store.read_at(name, offset=77, size_bytes=3333) == BODY[77 : 77 + 3333]
        assert store.read_bytes(name, max_bytes=len(BODY)) == BODY
    assert store.size_of("no") is None
    with pytest.raises(UserError, match=rf"{nginx.url}/no: missing"):
        store.read_bytes("no", max_bytes=1)
    with pytest.raises(DamageError, match=r"plain: longer than the 99999 bytes"):
        store.read_bytes("plain", max_bytes=99_999)
    for offset, size_bytes in ((99_000, 1001), (100_000, 1), (10**12, 5)):
        with pytest.raises(DamageError, match=rf"reading bytes {offset} to {offset + size_bytes}: the file ends"):
            store.read_at("plain", offset=offset, size_bytes=size_bytes)


def test_archives_behind_nginx_are_listed_in_place(nginx: Nginx) -> None:
    inner = {}
    for number in range(20):
        path = write_tar(nginx.root / "inner.tar", {f"{n}.jpg": bytes(30_000) for n in range(number)})
        inner[f"n{number:02d}.tar"] = path.read_bytes()
    write_tar(nginx.root / "outer.tar", inner)
    store, local = open_store(nginx.url), open_store(str(nginx.root))
    members = list(walk_tar(store, "outer.tar"))
    assert members == list(walk_tar(local, "outer.tar"))
    parts = [("outer.tar", member.offset, member.offset + member.size_bytes) for member in members]
    assert list(walk_tars_concurrently(store, parts, threads=16)) == [
        list(walk_tar(local, name, start=start, end=end)) for name, start, end in parts
    ]


def test_entries_of_a_zip_behind_nginx_are_read_in_place(nginx: Nginx) -> None:
    with zipfile.ZipFile(nginx.root / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(50):
            archive.writestr(f"val/{number:012d}.jpg", BODY[: 100 * number])
    store = open_store(nginx.url)
    entries = list_zip(store, "a.zip")
    assert [entry.name for entry in entries] == [f"val/{number:012d}.jpg" for number in range(50)]
    for number, entry in enumerate(entries):
        content = read_zip_entry(
            store, "a.zip", offset=entry.offset, size_bytes=entry.size_bytes, max_bytes=entry.unpacked_bytes
        )
        assert content == BODY[: 100 * number]


def test_many_threads_read_right_bytes_from_nginx(nginx: Nginx) -> None:
    (nginx.root / "plain").write_bytes(BODY)
    store = open_store(nginx.url)

    def read(step: int) -> bool:
        offset = step * 7919 % 90_000
        return store.read_at("plain", offset=offset, size_bytes=512) == BODY[offset : offset + 512]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, range(500)))


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as server:
        yield server


@pytest.fixture
def s3_store(s3: S3, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Store:
    """A prefix of its own for each test."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://bucket/{request.node.originalname}")


def test_what_is_published_to_s3_is_there_under_its_name_and_size(s3_store: Store) -> None:
    for name in NAMES:
        with s3_store.publish(name) as stream:
            stream.write(BODY)
            assert s3_store.size_of(name) is None
        assert s3_store.size_of(name) == len(BODY)
        assert s3_store.read_bytes(name, max_bytes=len(BODY)) == BODY
        assert s3_store.read_at(name, offset=99_990, size_bytes=10) == BODY[-10:]
    assert s3_store.list_files() == [StoredFile(name=name, size_bytes=len(BODY)) for name in sorted(NAMES)]
    assert [file.name for file in s3_store.list_files("train")] == sorted(NAMES[:2])
    assert s3_store.list_files("no") == []
    s3_store.remove("plain")
    s3_store.remove("plain")
    assert s3_store.size_of("plain") is None


def test_a_large_file_goes_up_in_parts_and_an_empty_one_too(s3_store: Store) -> None:
    content = BODY * 250
    for name, expected in (("large", content), ("empty", b"")):
        with s3_store.publish(name) as stream:
            stream.write(expected)
        assert s3_store.read_bytes(name, max_bytes=len(content)) == expected


@pytest.mark.slow
def test_a_listing_of_s3_has_more_than_a_page(s3: S3, s3_store: Store) -> None:
    prefix = s3_store.location.removeprefix("s3://bucket/")
    for number in range(1100):
        s3.client.put_object(Bucket="bucket", Key=f"{prefix}/{number:05d}", Body=b"x")
    assert [file.name for file in s3_store.list_files()] == [f"{number:05d}" for number in range(1100)]


def test_an_upload_left_by_an_exception_leaves_nothing(s3: S3, s3_store: Store) -> None:
    with pytest.raises(ValueError, match="closed"), s3_store.publish("a") as stream:
        stream.close()
    assert s3_store.list_files() == []
    assert "Uploads" not in s3.client.list_multipart_uploads(Bucket="bucket")


def test_a_missing_bucket_is_named_by_every_call(s3_store: Store) -> None:
    store = open_store("s3://no-such-bucket/data")
    calls: list[Callable[[], object]] = [
        lambda: store.size_of("a"),
        lambda: store.read_at("a", offset=0, size_bytes=1),
        lambda: store.read_bytes("a", max_bytes=1),
        lambda: store.list_files(),
        lambda: store.remove("a"),
    ]
    for call in calls:
        with pytest.raises(UserError, match=r"s3://no-such-bucket/data.*: no such bucket; create it") as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such bucket"), store.publish("a"):
        pass


def test_a_missing_file_is_told_from_a_missing_bucket(s3_store: Store) -> None:
    assert s3_store.size_of("a") is None
    with pytest.raises(UserError, match=rf"{s3_store.location}/a: missing"):
        s3_store.read_at("a", offset=0, size_bytes=1)
    with pytest.raises(UserError, match=rf"{s3_store.location}/a: missing"):
        list_zip(s3_store, "a")


@pytest.mark.slow
def test_no_network_and_no_credentials_are_one_line_within_seconds(
    s3_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", refusing_url())
    with pytest.raises(UserError, match=r"s3://bucket/x/a: looking it up: no connection \(Connection refused\)"):
        open_store("s3://bucket/x").size_of("a")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    started_s = time.monotonic()
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", refusing_url())
    with pytest.raises(UserError, match="no credentials in the environment; set AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket/x").size_of("a")
    assert time.monotonic() - started_s < 60


@pytest.mark.slow
def test_no_permission_and_a_failed_upload_are_one_line(
    s3_store: Store, bad_server: BadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", bad_server.url)
    with pytest.raises(UserError, match=r"s3://bucket/403: .*: not permitted; check AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket").read_at("403", offset=0, size_bytes=1)
    for size_bytes in (1, 20_000_000):
        with pytest.raises(UserError, match=r"s3://bucket/a: writing it: .* 500 ") as caught:
            publish_bytes(open_store("s3://bucket"), "a", bytes(size_bytes))
        assert "\n" not in str(caught.value)


def publish_bytes(store: Store, name: str, content: bytes) -> None:
    with store.publish(name) as stream:
        stream.write(content)
