"""Streams through the webdataset library: nothing is lost in silence, and nothing that a shard holds is run."""

from __future__ import annotations

import gzip
import io
import pickle
import shlex
import tarfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys, tar_file_expander, tar_file_iterator

from loopback import QuietHandler, free_port, listening
from pipeline.data import stream_shard
from pipeline.data.stream_shard import StreamedShard
from pipeline.shards.errors import DamageError, UserError
from served import served
from stream_shards import COUNTS, NUM, drain, open_loader, open_reader, pixels_of, png

OWN_STAGES = (tar_file_expander, group_by_keys)


def fails(shards: list[str], kind: type[UserError], reason: str, **options: object) -> str:
    started_s = time.monotonic()
    with pytest.raises(kind, match=reason) as caught:
        drain(shards, num_samples=400, batch_size=4, **options)
    assert time.monotonic() - started_s < 60
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_file_is_an_error_before_anything_starts(shards: list[str]) -> None:
    with pytest.raises(UserError, match=r"no-such.tar: no such file"):
        open_reader([*shards, "no-such.tar"], num_samples=60)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("exit 3", r"the command failed \(exit code 3\)"),
        ("cat {shard}; exit 3", r"the command failed \(exit code 3\)"),
        ("head -c 2048 {shard}; exit 3", r"the command failed \(exit code 3\)"),
        ("head -c 2048 {shard}", r"cut short at byte 2,048"),
        ("head -c 1700 {shard}", r"cut short at byte 1,700"),
        ("true", r"is empty"),
        ("cat {shard} {shard}", r"the tar ends at byte [\d,]+, but more follows"),
        ("no-such-command-here 2>&-", r"the command failed \(exit code 127\)"),
    ],
)
def test_a_command_that_fails_is_one_line_and_no_short_epoch(shards: list[str], command: str, reason: str) -> None:
    bad = "pipe:" + command.format(shard=shlex.quote(shards[3]))
    assert fails([*shards[:3], bad], UserError, reason).startswith("pipe:")


def test_http_errors_are_one_line_that_names_the_url(shards: list[str]) -> None:
    with served(Path(shards[0]).parent) as url:
        error = fails([f"{url}/part-0000.tar", f"{url}/no-such.tar?key=secret"], UserError, "404")
        assert error.startswith(f"{url}/no-such.tar?...: ")
    fails([f"http://127.0.0.1:{free_port()}/a.tar"], UserError, r"no connection to the server")


@pytest.mark.parametrize("keep", [2048, 1700])
def test_a_connection_that_breaks_off_is_an_error(shards: list[str], keep: int) -> None:
    """2,048 bytes end at a member's edge: Python's tar reader takes that for the whole tar."""
    body = Path(shards[3]).read_bytes()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:keep])

    with tarfile.open(fileobj=io.BytesIO(body[:2048]), mode="r|*") as short:
        assert 0 < len(short.getmembers()) < 2 * COUNTS[3]
    with listening(Handler) as url:
        fails([f"{url}/a.tar"], UserError, r"the connection broke off before all bytes were there \(exit code 18\)")


@pytest.mark.slow
def test_a_server_that_is_overloaded_for_a_moment_is_asked_again(shards: list[str]) -> None:
    body, asked = Path(shards[1]).read_bytes(), []

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(503 if len(asked) <= 2 else 200)
            self.send_header("Content-Length", str(len(body) if len(asked) > 2 else 0))
            self.end_headers()
            if len(asked) > 2:
                self.wfile.write(body)

    with listening(Handler) as url:
        found = drain([f"{url}/a.tar"], num_samples=9, batch_size=9)
    assert sorted(found[0]) == list(range(1, 10))
    # The third answer was whole; the second pass was begun, as blocks are decoded together.
    assert asked[:3] == ["/a.tar"] * 3


def test_other_urls_are_refused_with_the_way_round() -> None:
    fails(["s3x://bucket/a.tar"], UserError, r"cannot be opened \(no gopen handler defined\); pipe: and a command")
    fails(["-:"], UserError, "cannot be opened")


def damaged(shard: str, out: Path, change: Callable[[bytearray], None]) -> str:
    content = bytearray(Path(shard).read_bytes())
    change(content)
    out.write_bytes(content)
    return str(out)


def flip_a_header(content: bytearray) -> None:
    """The header of a member in the middle, which the library's tar reader takes for the end without a word."""
    with tarfile.open(fileobj=io.BytesIO(bytes(content))) as archive:
        member = archive.getmembers()[8]
    content[member.offset + 3] ^= 1


def flip_a_pixel(content: bytearray) -> None:
    with tarfile.open(fileobj=io.BytesIO(bytes(content))) as archive:
        member = next(member for member in archive.getmembers()[8:] if member.name.endswith(".png"))
    content[member.offset_data + member.size // 2] ^= 255


def test_a_damaged_header_in_a_shard_in_the_middle_is_an_error(shards: list[str], tmp_path: Path) -> None:
    bad = damaged(shards[3], tmp_path / "bad.tar", flip_a_header)
    with Path(bad).open("rb") as stream:
        assert 0 < len(list(tar_file_iterator(stream))) < 2 * COUNTS[3]
    fails([*shards[:3], bad, shards[4]], DamageError, r"bad.tar: no whole header of a tar member")


def test_bad_samples_are_skipped_up_to_a_number_and_then_an_error(
    shards: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = damaged(shards[3], tmp_path / "bad.tar", flip_a_pixel)
    mixed = [*shards[:3], bad, shards[4]]
    fails(mixed, UserError, r"bad.tar: sample 'a/\d+': its image cannot be decoded.*data.stream_max_rejected=0")
    fails(mixed, UserError, r"over data.stream_max_rejected=2 bad samples", max_rejected=2)
    caplog.clear()
    found = drain(mixed, num_samples=NUM - 1, batch_size=NUM - 1, shuffle_samples=0, max_rejected=2)
    assert len({*found[0]}) == NUM - 1
    said = [record.message for record in caplog.records if "sample" in record.message and "lacks" not in record.message]
    assert len(said) == 2
    assert "skipped, and up to 2 such in an epoch" in said[0]
    assert said[1] == "data.stream: 1 bad samples were skipped"


def write_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], format: int = tarfile.PAX_FORMAT) -> str:
    with tarfile.open(path, "w", format=format) as archive:
        for info, content in members:
            info.size = len(content) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def info(name: str, **facts: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for key, value in facts.items():
        setattr(member, key, value)
    return member


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused_by_name(tmp_path: Path, kind: bytes) -> None:
    bad = write_tar(tmp_path / "bad.tar", [(info("a.png", type=kind, linkname="/etc/passwd"), b"")])
    fails([bad], UserError, r"bad.tar: 'a.png', which is no plain file but of kind '.', at byte 0 is refused")


def test_sizes_that_pax_records_give_are_refused(tmp_path: Path) -> None:
    bad = write_tar(tmp_path / "bad.tar", [(info("a.png", pax_headers={"size": "1000000000000"}), b"x" * 10)])
    fails([bad], UserError, r"pax records of a size or of sparse files")


def test_members_over_the_bound_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_shard, "MAX_MEMBER_BYTES", 1 << 20)
    zeros = write_tar(tmp_path / "zeros.tar", [(info("a.png"), bytes((1 << 20) + 1))])
    fails([zeros], UserError, r"zeros.tar: 'a.png' of 1,048,577 bytes, over 1 MiB, at byte 0 is refused")
    fails([f"pipe:gzip -c {shlex.quote(zeros)}"], UserError, r"'a.png' of 1,048,577 bytes, over 1 MiB")
    name = write_tar(tmp_path / "name.tar", [(info("a" * ((1 << 20) + 10) + ".png"), b"x")], tarfile.GNU_FORMAT)
    fails([name], DamageError, r"a long name or pax records of 1,048,\d+ bytes")


@pytest.mark.parametrize("packer", ["bzip2", "xz"])
def test_other_packings_are_refused_and_not_unpacked_past_all_bounds(shards: list[str], packer: str) -> None:
    command = f"pipe:{packer} -c {shlex.quote(shards[0])}"
    fails([command], UserError, r"is packed otherwise than once by gzip; use pipe: and the command that unpacks it")


def test_a_cut_gzip_file_is_an_error(shards: list[str]) -> None:
    fails([f"pipe:gzip -c {shlex.quote(shards[3])} | head -c 700"], DamageError, r"not a whole gzip file")


class Boom:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (Path(self.marker),)

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    """The library's own decoding runs the code that a member holds."""
    code = pickle.dumps(Boom(tmp_path / "marker"))
    with webdataset.TarWriter(str(tmp_path / "a.tar"), encoder=False) as writer:
        for number in range(8):
            extra = dict.fromkeys(("pickle", "pkl", "pth", "pyd", "x.pyd"), code)
            writer.write({"__key__": f"a{number}", "png": png(pixels_of(number)), "cls": b"%d" % (number % 7), **extra})
    shard = str(tmp_path / "a.tar")
    assert sorted(drain([shard], num_samples=8, batch_size=8)[0]) == list(range(8))
    assert not (tmp_path / "marker").exists()
    with Path(shard).open("rb") as stream, suppress(Exception):
        opened = [{"url": shard, "stream": stream}]
        list(webdataset.DataPipeline(lambda: iter(opened), *OWN_STAGES, webdataset.decode()))
    assert (tmp_path / "marker").exists(), "the members would have run"


def test_members_twice_and_shards_of_nothing_are_errors(tmp_path: Path) -> None:
    twice = write_tar(tmp_path / "twice.tar", [(info("a.cls"), b"1"), (info("a.cls"), b"2")])
    fails([twice], DamageError, r"twice.tar: a.cls: duplicate file name in tar file")
    nothing = write_tar(tmp_path / "nothing.tar", [(info("a.mp4"), b"1")])
    fails([nothing], UserError, r"no image and no label in any of the shards")
    apart = write_tar(tmp_path / "apart.tar", [(info("a.cls"), b"1"), (info("b.png"), b"2")])
    fails([apart], UserError, r"sample '.': it has no (image|label)")


def test_leaving_a_stalled_stream_ends_soon_and_a_slot_comes_once(shards: list[str]) -> None:
    stalled = f"pipe:cat {shlex.quote(shards[3])} | head -c 3000; sleep 100"
    loader = open_loader([stalled], num_samples=8, batch_size=8)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            next(iter(loader))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.5)
    loader.reader.close()
    thread.join(60)
    assert not thread.is_alive()
    assert "the stream was left" in str(failed[0])


def test_a_stream_that_gives_nothing_for_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_shard, "STALL_S", 0.3)
    fails(["pipe:sleep 100"], UserError, r"nothing came for 0 s")


@given(at=st.floats(0, 1), flip=st.integers(0, 255), is_packed=st.booleans())
@settings(max_examples=150)
def test_with_one_byte_changed_or_a_tail_lost_all_members_come_or_an_error(
    shards: list[str], at: float, flip: int, is_packed: bool
) -> None:
    """Changed is the byte at a share `at` of the shard; with flip=0 the shard ends there."""
    content = bytearray(Path(shards[2]).read_bytes())
    with tarfile.open(fileobj=io.BytesIO(bytes(content))) as archive:
        expected = [member.name for member in archive]
    if is_packed:
        content = bytearray(gzip.compress(bytes(content), mtime=0))
    place = min(int(at * len(content)), len(content) - 1)
    if flip:
        content[place] ^= flip
    else:
        del content[place:]
    path = Path(shards[0]).parent / "changed.bin"
    path.write_bytes(content)
    try:
        with StreamedShard(str(path)) as shard:
            found = [member["fname"] for member in tar_file_iterator(shard)]
            shard.check_ended()
    except UserError as error:
        found = [str(error.args[0]).partition(":")[0]]
        expected = [str(path)]
    assert found == expected
