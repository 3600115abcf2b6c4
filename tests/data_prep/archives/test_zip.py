"""The oracle is Python's own zip reader."""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from bytes_store import BytesStore
from data_prep.archives.zip import MAX_DEFLATE_RATIO, ZipEntry, list_zip, read_zip_entry
from pipeline.shards.errors import DamageError, UserError
from pipeline.storage import open_store
from tiny_data import ROOT

FILES = {"val/1.jpg": os.urandom(3000), "val/2.jpg": b"", "a.json": b"[1, 2, 3]" * 1000, "größe/猫.png": b"cat"}
METHODS = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}
MAX_BYTES = 1 << 20


class Stream(io.RawIOBase):
    """A file that only takes writes, as a pipe does; what is written as a stream has data descriptors."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, piece: object) -> int:
        self.content += memoryview(piece)  # type: ignore[arg-type]
        return len(memoryview(piece))  # type: ignore[arg-type]


def write_zip(path: Path, files: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def listed(path: Path) -> list[ZipEntry]:
    return list_zip(open_store(str(path.parent)), path.name)


def read_all(store: Any, name: str) -> dict[str, bytes]:
    return {
        entry.name: read_zip_entry(store, name, offset=entry.offset, size_bytes=entry.size_bytes, max_bytes=MAX_BYTES)
        for entry in list_zip(store, name)
    }


def assert_like_python(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        assert listed(path) == [(i.filename, i.header_offset, i.compress_size, i.file_size) for i in infos]
        assert read_all(open_store(str(path.parent)), path.name) == {
            info.filename: archive.read(info) for info in infos
        }
    assert infos


def read_first(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    entry = listed(path)[0]
    store = open_store(str(path.parent))
    return read_zip_entry(store, path.name, offset=entry.offset, size_bytes=entry.size_bytes, max_bytes=max_bytes)


def patched(path: Path, at: int, piece: bytes) -> Path:
    """Overwrite bytes of a file; a negative place is one before its end."""
    content = bytearray(path.read_bytes())
    at = at if at >= 0 else len(content) + at
    content[at : at + len(piece)] = piece
    path.write_bytes(content)
    return path


def directory_offset(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return archive.start_dir


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_entries_are_those_of_pythons_reader(method: int, tmp_path: Path) -> None:
    assert_like_python(write_zip(tmp_path / "a.zip", FILES, method=method))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("long_sizes", [False, True])
def test_a_zip_written_as_a_stream_is_read_by_its_data_descriptors(
    method: int, long_sizes: bool, tmp_path: Path
) -> None:
    stream = Stream()
    with zipfile.ZipFile(stream, "w", method) as archive:  # type: ignore[call-overload]
        for name, content in FILES.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            with archive.open(info, "w", force_zip64=long_sizes) as entry:
                entry.write(content)
    (tmp_path / "a.zip").write_bytes(stream.content)
    assert_like_python(tmp_path / "a.zip")


def test_zip64_entries_and_end_records_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    path = write_zip(tmp_path / "a.zip", {f"{n}.jpg": bytes([n]) * 5000 for n in range(20)}, method=zipfile.ZIP_STORED)
    assert b"PK\6\7" in path.read_bytes()
    monkeypatch.undo()
    assert_like_python(path)


def test_an_entry_behind_4_gib_is_read(tmp_path: Path) -> None:
    hole = 5 << 30
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("first.jpg", b"1")
        archive.fp.seek(hole)  # type: ignore[union-attr]
        archive.start_dir = hole
        archive.writestr("last.jpg", b"2" * 300)
    assert_like_python(path)


@pytest.mark.skipif(shutil.which("zip") is None, reason="no zip command here")
@pytest.mark.parametrize("options", [[], ["-0"], ["-fd"]])
def test_entries_are_those_of_the_zip_command(options: list[str], tmp_path: Path) -> None:
    for name in ("n01/a.jpg", "n01/deep/b.json", "n02/" + "c" * 90):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(name.encode() * 100)
    subprocess.run(["zip", "-qr", *options, "../a.zip", "."], cwd=tmp_path / "in", check=True)
    assert_like_python(tmp_path / "a.zip")


def test_folders_are_passed_over_and_a_leading_dot_is_taken_off(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"cats/": b"", "./cats/a.jpg": b"a"})
    assert [entry.name for entry in listed(path)] == ["cats/a.jpg"]


def test_an_empty_zip_has_no_entries_and_an_archive_comment_is_let_pass(tmp_path: Path) -> None:
    assert listed(write_zip(tmp_path / "a.zip", {})) == []
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a.jpg", b"a")
        archive.comment = b"x" * 60_000
    assert_like_python(tmp_path / "b.zip")


@pytest.mark.parametrize(
    "name", ["../a.jpg", "/etc/passwd", "a/../../b", "a\\..\\b", "..", "../folder/", "x/..", "./../a"]
)
def test_a_name_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.zip: entry .* leads out of the archive; refused"):
        listed(write_zip(tmp_path / "a.zip", {"good.jpg": b"", name: b""}))


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"cafe.jpg": b"x"})
    path.write_bytes(path.read_bytes().replace(b"cafe", b"caf\xe9"))
    with pytest.raises(UserError, match="not UTF-8"):
        listed(path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_are_refused_by_name(kind: int, tmp_path: Path) -> None:
    info = zipfile.ZipInfo("odd.jpg")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match=r"entry b'odd\.jpg': a link or a device; refused"):
        listed(tmp_path / "a.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_are_refused_by_name(method: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"entry b'a\.jpg': packed by method {method}; stored and deflate"):
        listed(write_zip(tmp_path / "a.zip", {"a.jpg": b"a"}, method=method))


def test_encrypted_entries_are_refused_by_name(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.jpg": b"a" * 50})
    entry = listed(path)[0]
    patched(path, 6, b"\1\0")
    with pytest.raises(UserError, match=r"entry b'a\.jpg': encrypted"):
        read_zip_entry(
            open_store(str(tmp_path)), "a.zip", offset=entry.offset, size_bytes=entry.size_bytes, max_bytes=50
        )
    patched(path, directory_offset(path) + 8, b"\1\0")
    with pytest.raises(UserError, match=r"entry b'a\.jpg': encrypted"):
        listed(path)


def test_entries_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """The form of a bomb that has one kernel of zeros and many entries that point to it."""
    path = write_zip(tmp_path / "a.zip", {"a.jpg": b"a" * 100, "b.jpg": b"b" * 100}, method=zipfile.ZIP_STORED)
    second = directory_offset(path) + 46 + len("a.jpg")
    offsets = {"the same": 0, "inside the first": 40, "inside the directory": directory_offset(path) - 10}
    for offset in offsets.values():
        patched(path, second + 42, struct.pack("<L", offset))
        with pytest.raises(DamageError, match="shares bytes with what comes after it; refused"):
            listed(path)


def test_what_deflate_cannot_have_packed_is_refused_when_listed(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.jpg": bytes(1 << 20)})
    packed_bytes = listed(path)[0].size_bytes
    assert (1 << 20) / packed_bytes > 900  # a real one of nearly the highest ratio is let pass
    most = MAX_DEFLATE_RATIO * (packed_bytes + 10)
    patched(path, directory_offset(path) + 24, struct.pack("<L", most + 1))
    with pytest.raises(DamageError, match=rf"said to unpack to {most + 1}, more than can be; refused"):
        listed(path)


def test_a_bomb_is_never_unpacked_beyond_the_limit(tmp_path: Path) -> None:
    """It says 10 bytes and unpacks to 200 MB; the limit of the memory that a test may use shows that it is not."""
    path = write_zip(tmp_path / "a.zip", {"a.jpg": bytes(200_000_000)})
    for at in (22, directory_offset(path) + 24):
        patched(path, at, struct.pack("<L", 10))
    script = (
        "import resource\n"
        "from data_prep.archives.zip import list_zip, read_zip_entry; from pipeline.storage import open_store\n"
        f"store = open_store({str(tmp_path)!r}); entry = list_zip(store, 'a.zip')[0]\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (100_000_000,) * 2)\n"
        "try: read_zip_entry(store, 'a.zip', offset=entry.offset, size_bytes=entry.size_bytes, max_bytes=1000)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("DamageError"), done.stdout + done.stderr
    assert "unpacks to more than the 1000 bytes" in done.stdout


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_an_entry_of_more_than_the_limit_is_damage_and_one_of_exactly_that_is_not(method: int, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.jpg": b"ab" * 500}, method=method)
    assert read_first(path, max_bytes=1000) == b"ab" * 500
    with pytest.raises(DamageError, match="999"):
        read_first(path, max_bytes=999)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_flipped_bit_anywhere_is_damage_or_refused_or_of_no_effect(method: int, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.jpg": b"hello, hello, hello"}, method=method)
    whole = path.read_bytes()
    contents = list(read_all(BytesStore(whole), "a").values())
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = list(read_all(BytesStore(bytes(damaged)), "a").values())
        except UserError:
            continue
        assert found == contents, f"bit {bit} went unnoticed"  # of the names a zip has no checksum


def test_a_zip_cut_anywhere_is_damage(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "a.zip", FILES).read_bytes()
    for cut in range(len(whole)):
        with pytest.raises(DamageError, match=r"memory/a: "):
            read_all(BytesStore(whole[:cut]), "a")


@pytest.mark.parametrize(
    ("at", "piece", "reason"),
    [
        (-14, struct.pack("<HH", 3, 3), "3 were promised|more than|does not end"),
        (-14, struct.pack("<HH", 1, 1), "more than the 1 entries"),
        (-18, struct.pack("<H", 1), "one of several parts"),
        (-6, struct.pack("<L", 0), "does not end at byte"),
        (-2, struct.pack("<H", 5), "its end record is missing"),
    ],
)
def test_an_end_record_that_lies_is_damage(at: int, piece: bytes, reason: str, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.jpg": b"a", "b.jpg": b"b"})
    with pytest.raises(DamageError, match=reason):
        listed(patched(path, at, piece))


def test_something_before_or_behind_the_zip_is_damage(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "a.zip", FILES).read_bytes()
    for content in (b"#!/bin/sh\n" + whole, whole + b"x"):
        (tmp_path / "b.zip").write_bytes(content)
        with pytest.raises(DamageError):
            listed(tmp_path / "b.zip")


def test_an_entry_of_another_size_or_place_than_the_directorys_is_damage(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"a.jpg": b"a" * 1000, "b.jpg": b"b" * 1000}, method=zipfile.ZIP_STORED)
    store = open_store(str(tmp_path))
    for offset, size_bytes in ((1, 1000), (0, 999), (0, 1001)):
        with pytest.raises(DamageError, match=rf"a\.zip, byte {offset}: "):
            read_zip_entry(store, "a.zip", offset=offset, size_bytes=size_bytes, max_bytes=MAX_BYTES)


def test_bytes_behind_the_packed_stream_are_damage(tmp_path: Path) -> None:
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(b"hello") + packer.flush() + b"more"
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, zlib.crc32(b"hello"), len(packed), 5, 1, 0) + b"a"
    (tmp_path / "a.zip").write_bytes(local + packed + bytes(200))
    with pytest.raises(DamageError, match="no whole stream"):
        read_zip_entry(open_store(str(tmp_path)), "a.zip", offset=0, size_bytes=len(packed), max_bytes=100)


def test_a_name_that_stands_twice_is_listed_twice_with_its_own_bytes(tmp_path: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a.jpg", b"1")
        archive.writestr("a.jpg", b"2")
    assert [entry.name for entry in listed(tmp_path / "a.zip")] == ["a.jpg", "a.jpg"]
    assert read_first(tmp_path / "a.zip") == b"1"


def test_a_missing_zip_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.zip: missing"):
        listed(tmp_path / "no.zip")
