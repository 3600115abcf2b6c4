"""Streams through the webdataset library: what they keep, and that nothing is lost in silence."""

from __future__ import annotations

import gzip
import io
import logging
import pickle
import random
import shlex
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys, tar_file_expander, tar_file_iterator

from loopback import QuietHandler, free_port, listening
from pipeline.data import stream_shard
from pipeline.data.counting import counters_of
from pipeline.data.crop import RandomCrop
from pipeline.data.loader import BatchLoader
from pipeline.data.order import SequentialOrder
from pipeline.data.stream import StreamOrder
from pipeline.data.stream_sample import BadSample, parse_sample
from pipeline.data.stream_shard import StreamedShard
from pipeline.data.stream_source import expand_shards, shuffled
from pipeline.shards.errors import DamageError, UserError
from served import served
from stream_shards import NUM_CLASSES, Known, open_loader, open_reader, pixels_of, png, write_stream
from tiny_data import random_pixels

OWN_STAGES = (tar_file_expander, group_by_keys)
COUNTS = [1, 9, 4, 12, 2]
NUM = sum(COUNTS)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_stream(tmp_path_factory.mktemp("stream"), counts=COUNTS)


def drain(shards: list[str], *, num_samples: int = NUM, batch_size: int = 4, **options: object) -> list[list[int]]:
    return Known(NUM).drain(open_loader(shards, num_samples=num_samples, batch_size=batch_size, **options))  # type: ignore[arg-type]


def test_one_pass_of_one_rank_has_every_sample_once_with_its_pixels_and_label(shards: list[str]) -> None:
    found = list(chain.from_iterable(drain(shards, shuffle_samples=0)))
    assert sorted(found) == list(range(NUM))
    assert found != sorted(found)
    for buffer in (1, 5, 1000):
        twice = list(chain.from_iterable(drain(shards, num_samples=2 * NUM, shuffle_samples=buffer)))
        assert sorted(twice[:NUM]) == sorted(twice[NUM:]) == list(range(NUM))
        assert twice[:NUM] != twice[NUM:]


def test_files_urls_and_commands_give_the_same_samples(shards: list[str]) -> None:
    expected = drain(shards)
    folder = Path(shards[0]).parent
    with served(folder) as url:
        assert drain([f"{url}/{Path(shard).name}" for shard in shards]) == expected
    assert drain([f"pipe:cat {shlex.quote(shard)}" for shard in shards]) == expected
    assert drain([Path(shard).as_uri() for shard in shards]) == expected
    assert drain([f"pipe:gzip -c {shlex.quote(shard)}" for shard in shards]) == expected


def test_an_epoch_is_a_function_of_seed_epoch_and_rank_whatever_the_threads(shards: list[str]) -> None:
    first = drain(shards, threads=1)
    assert drain(shards, threads=5) == first
    assert drain(shards, first_step=NUM // 4) != first
    both = [drain(shards, rank=rank, world_size=2) for rank in range(2)]
    assert both[0] != both[1]
    assert list(chain.from_iterable(drain(shards, micro_slots=3))) == list(chain.from_iterable(first))


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("resampled", [False, True])
def test_ranks_take_equal_steps_however_unequal_their_shards(
    shards: list[str], world_size: int, resampled: bool
) -> None:
    """An epoch of three times the samples: short shards come again, no rank runs dry."""
    for rank in range(world_size):
        batches = drain(
            shards, num_samples=3 * NUM, batch_size=8, rank=rank, world_size=world_size, resampled=resampled
        )
        assert [len(batch) for batch in batches] == [8 // world_size] * (3 * NUM // 8)


def test_the_first_pass_of_all_ranks_has_no_sample_twice(shards: list[str]) -> None:
    found: Counter[int] = Counter()
    for rank in range(2):
        # As many as the smaller of the two shares surely has: the one of shards with 1 and 2 samples.
        found.update(chain.from_iterable(drain(shards, num_samples=6, batch_size=2, rank=rank, world_size=2)))
    assert max(found.values()) == 1


def test_fewer_shards_than_ranks_are_refused_at_once_unless_resampled(shards: list[str]) -> None:
    with pytest.raises(UserError, match=r"5 shards cannot be dealt to 6 ranks.*stream_resampled=true"):
        open_reader(shards, num_samples=60, rank=0, world_size=6)
    for rank in range(6):
        assert len(drain(shards, num_samples=60, batch_size=12, rank=rank, world_size=6, resampled=True)) == 5


def test_a_resumed_epoch_has_the_steps_that_are_left(shards: list[str]) -> None:
    assert len(drain(shards, num_samples=40, batch_size=4, first_step=7)) == 3
    assert len(drain(shards, num_samples=40, batch_size=4, first_step=10)) == 10


def test_positions_and_ids_are_running_numbers() -> None:
    order = StreamOrder(num_samples=11, batch_size=5)
    assert order.steps_per_epoch == 2
    slots = order.global_batch(epoch=3, step=1)
    assert slots.positions.tolist() == [5, 6, 7, 8, 9]
    assert slots.sample_ids.tolist() == [35, 36, 37, 38, 39]
    assert slots.weights.tolist() == [1] * 5


def test_what_is_lacking_is_said_once(shards: list[str], caplog: pytest.LogCaptureFixture) -> None:
    loader = open_loader(shards, num_samples=8, batch_size=4)
    for _ in range(3):
        assert len(list(loader)) == 2
    loader.close()
    loader.reader.close()
    open_reader(shards, num_samples=8, rank=1, world_size=2)
    said = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1
    for word in ("order", "resuming", "checksums", "once an epoch", "data_prep.index"):
        assert word in said[0]


def test_evaluation_reads_each_sample_once_over_any_number_of_ranks(shards: list[str]) -> None:
    for world_size in (1, 2, 3):
        found: Counter[int] = Counter()
        for rank in range(world_size):
            reader = open_reader(shards, num_samples=NUM, rank=rank, world_size=world_size, in_order=True)
            order = SequentialOrder(num_samples=NUM, batch_size=5 * world_size)
            loader = BatchLoader(reader, order, rank=rank, world_size=world_size)
            for _ in range(2):
                for batch in loader:
                    for number, weight, sample_id in zip(
                        Known(NUM).numbers(batch.images_BHWC), batch.weights_B.tolist(), batch.sample_ids, strict=True
                    ):
                        assert number == sample_id
                        found[number] += int(weight)
            loader.close()
            reader.close()
        assert found == dict.fromkeys(range(NUM), 2)


@pytest.mark.parametrize(("said", "found"), [(NUM + 1, f"only {NUM}"), (NUM - 1, f"more than {NUM - 1}")])
def test_evaluation_of_another_number_of_samples_than_said_is_an_error(
    shards: list[str], said: int, found: str
) -> None:
    reader = open_reader(shards, num_samples=said, in_order=True)
    loader = BatchLoader(reader, SequentialOrder(num_samples=said, batch_size=4), rank=0, world_size=1)
    with pytest.raises(UserError, match=f"{found} samples to evaluate on, data.val_stream_samples={said} said"):
        list(loader)
    reader.close()


# Nothing is lost in silence.


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
    started_s = time.monotonic()
    loader.reader.close()
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - started_s < 5
    assert "the stream was left" in str(failed[0])


def test_a_stream_that_gives_nothing_for_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_shard, "STALL_S", 0.3)
    fails(["pipe:sleep 100"], UserError, r"nothing came for 0 s")


def test_a_slot_is_filled_once(shards: list[str]) -> None:
    loader = open_loader(shards, num_samples=8, batch_size=4)
    iterator = iter(loader)
    batch = next(iterator)
    slots = StreamOrder(num_samples=8, batch_size=4).global_batch(epoch=0, step=0)
    with pytest.raises(ValueError, match="fills each slot once"):
        loader.reader.fill(slots, epoch=0, out=batch.images_BHWC)
    loader.close()
    loader.reader.close()


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


def test_random_crops_follow_from_the_number_in_the_stream_whatever_the_threads(shards: list[str]) -> None:
    def images(threads: int, seed: int = 1) -> torch.Tensor:
        crop = RandomCrop(seed=seed)
        loader = open_loader(shards, num_samples=NUM, batch_size=NUM, crop=crop, threads=threads)
        (batch,) = loader
        loader.close()
        loader.reader.close()
        return batch.images_BHWC

    assert torch.equal(images(1), images(4))
    assert not torch.equal(images(1), images(1, seed=2))


def test_bytes_and_decoding_are_counted(shards: list[str]) -> None:
    loader = open_loader(shards, num_samples=NUM, batch_size=NUM)
    list(loader)
    counters = counters_of(loader.reader)
    loader.close()
    loader.reader.close()
    assert counters["read_bytes"] >= sum(len(png(pixels_of(number))) for number in range(NUM))
    assert counters["decode_s"] > 0


# Names, samples, the buffer.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{000..002}.tar", ["a-000.tar", "a-001.tar", "a-002.tar"]),
        ("a{1,2}::b.tar", ["a1", "a2", "b.tar"]),
        (["a{1..2}", "c"], ["a1", "a2", "c"]),
        ("pipe:awk '{print}' x", ["pipe:awk '{print}' x"]),
    ],
)
def test_names_expand_as_in_webdataset(text: str | list[str], expected: list[str]) -> None:
    assert list(expand_shards(text)) == expected
    if isinstance(text, str):
        assert webdataset.shardlists.expand_urls(text) == expected


@pytest.mark.parametrize("text", ["", [], "a{1..2", "a{0..9999999999}"])
def test_names_that_do_not_expand_are_refused(text: str | list[str]) -> None:
    with pytest.raises(UserError):
        expand_shards(text)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"cls": b"7"}, "its label 7 is outside the 7 classes"),
        ({"cls": b"-1"}, "holds '-1', no class number"),
        ({"cls": "٣".encode()}, "no class number"),
        ({"cls": b"cat"}, "holds 'cat', no class number"),
        ({"cls": b"\xff"}, "its .cls cannot be read"),
        ({"cls": b"1" * 5000}, "its .cls of 5,000 bytes"),
        ({"json": b"[" * 100_000}, "its .json cannot be read"),
        ({"json": b'{"label": true}'}, "no class number"),
        ({"json": b'{"label": [1, 2]}'}, "no class number"),
        ({"json": b'{"other": 1}'}, "it has no label"),
        ({}, "it has no label"),
        ({"cls": b"1"}, "it has no image"),
        ({"cls": b"1", "png": b"x"}, "its image is not a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM"),
        ({"cls": b"1", "ppm": b"P6 9000 9000 255\n"}, "9000x9000 pixels: 1 to 67,108,864 wanted"),
        ({"cls": b"1", "png": png(pixels_of(0))[:20]}, "its image cannot be read"),
    ],
)
def test_bad_samples_say_what_is_wrong(members: dict[str, bytes], reason: str) -> None:
    with pytest.raises(BadSample, match=reason):
        parse_sample(members, num_classes=NUM_CLASSES, label_field="label")


@pytest.mark.parametrize("members", [{"cls": b"3\n"}, {"json": b'{"label": 3}'}, {"json": b'{"label": "3"}'}])
def test_labels_are_read_as_text_and_sizes_from_the_header(members: dict[str, bytes]) -> None:
    image = png(random_pixels(0, height=11, width=4))
    found = parse_sample({**members, "png": image}, num_classes=NUM_CLASSES, label_field="label")
    assert found == (image, 11, 4, 3)


def test_the_buffer_gives_each_sample_once_and_holds_no_more_than_it_may() -> None:
    given: list[int] = []
    most = 0

    def source() -> Iterator[dict[str, Any]]:
        for number in range(1000):
            nonlocal most
            most = max(most, number - len(given))
            yield {"x": bytes([number % 256]) * 100, "__key__": str(number)}

    for sample in shuffled(source(), num_samples=50, draw=random.Random(0)):
        given.append(int(sample["__key__"]))  # noqa: PERF401  # the source looks at how many were given
    assert len(given) == len({*given}) == 1000
    assert most <= 51
    assert sum(abs(place - number) for place, number in enumerate(given)) / 1000 > 20
