"""The oracle is Python's own tar reader; where that is lenient, the property is that ours is not."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bytes_store import BytesStore
from data_prep.archives.tar import REMOTE_AHEAD, TarMember, walk_tar, walk_tars_concurrently
from data_prep.archives.tar_header import MAX_EXTENSION_BYTES
from pipeline.shards.errors import DamageError, UserError
from pipeline.storage import Store, open_store
from tar_bytes import END, FORMATS, extension, pax_record, raw_header, write_tar

FILES = {"a.jpg": b"a" * 700, "cats/b.jpg": b"", "cats/c.jpg": b"c" * 512, "d.jpg": b"d" * 5000}


def write_member(path: Path, member: tarfile.TarInfo, *, format: int = tarfile.GNU_FORMAT) -> Path:
    """Write a tar of one good file and one special member."""
    with tarfile.open(path, "w", format=format) as archive:
        archive.addfile(tarfile.TarInfo("good.jpg"))
        archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def special_member(name: str, *, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = "target"
    return member


def listed(path: Path) -> list[TarMember]:
    return list(walk_tar(open_store(str(path.parent)), path.name))


def listed_by_tarfile(path: Path) -> list[tuple[str, int, int]]:
    with tarfile.open(path) as archive:
        return [
            (member.name.removeprefix("./"), member.offset_data, member.size) for member in archive if member.isreg()
        ]


def walk_bytes(content: bytes) -> list[TarMember]:
    store: Any = BytesStore(content)
    return list(walk_tar(store, "a"))


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_members_are_those_of_pythons_reader(format: int, tmp_path: Path) -> None:
    names = ["./a.jpg", "cats/" + "x" * 94, "/".join(["deep"] * 30) + "/" + "n" * 90, "plain"]
    if format != tarfile.USTAR_FORMAT:
        names += ["long" * 60 + ".jpg", "größe/猫.jpg", "é" * 80 + "/" + "ü" * 60]
    path = write_tar(tmp_path / "a.tar", {name: bytes(37 * n) for n, name in enumerate(names)}, format=format)
    assert listed(path) == listed_by_tarfile(path)
    assert len(listed(path)) == len(names)


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar command here")
@pytest.mark.parametrize("format", ["gnu", "oldgnu", "pax", "ustar", "v7"])
def test_members_are_those_of_the_tar_command(format: str, tmp_path: Path) -> None:
    for name in ("n01/a.jpg", "n01/deep/b.jpg", "n02/" + "c" * 60):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(name.encode() * 100)
    subprocess.run(["tar", f"--format={format}", "-cf", "../a.tar", "."], cwd=tmp_path / "in", check=True)
    members = listed(tmp_path / "a.tar")
    assert members == listed_by_tarfile(tmp_path / "a.tar")
    assert sorted(member.name for member in members) == ["n01/a.jpg", "n01/deep/b.jpg", "n02/" + "c" * 60]


def test_the_content_is_where_a_member_says(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", FILES)
    store = open_store(str(tmp_path))
    found = {
        member.name: store.read_at("a.tar", offset=member.offset, size_bytes=member.size_bytes)
        for member in walk_tar(store, path.name)
    }
    assert found == FILES


def test_a_member_of_more_than_8_gib_is_listed(tmp_path: Path) -> None:
    member = tarfile.TarInfo("huge.bin")
    member.size = 9 << 30
    header = member.tobuf(format=tarfile.GNU_FORMAT)
    assert header[124] == 0x80
    path = tmp_path / "a.tar"
    path.write_bytes(header)
    os.truncate(path, 512 + member.size + 1024)
    assert listed(path) == [("huge.bin", 512, 9 << 30)]


def test_pax_records_give_a_size_of_more_than_8_gib(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    records = pax_record(b"size", b"%d" % (9 << 30)) + pax_record(b"comment", b"x")
    header = extension(b"x", records) + raw_header(b"huge.bin")
    path.write_bytes(header)
    os.truncate(path, len(header) + (9 << 30) + 1024)
    assert listed(path) == [("huge.bin", len(header), 9 << 30)] == listed_by_tarfile(path)


def test_a_global_pax_header_without_names_is_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", pax_headers={"comment": "0123abcd"}) as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    assert [member.name for member in listed(tmp_path / "a.tar")] == ["a.jpg"]


def test_a_tar_inside_a_tar_is_walked_in_place(tmp_path: Path) -> None:
    inner = {
        name: write_tar(tmp_path / name, {f"{name}/{file}": FILES[file] for file in FILES})
        for name in ("n1.tar", "n2.tar")
    }
    outer = write_tar(tmp_path / "outer.tar", {name: path.read_bytes() for name, path in inner.items()})
    store = open_store(str(tmp_path))
    for member in walk_tar(store, outer.name):
        inside = list(walk_tar(store, outer.name, start=member.offset, end=member.offset + member.size_bytes))
        assert [found.name for found in inside] == [f"{member.name}/{file}" for file in FILES]
        assert [(found.offset - member.offset, found.size_bytes) for found in inside] == [
            (offset, size) for _, offset, size in listed_by_tarfile(inner[member.name])
        ]


def test_a_flipped_bit_in_a_header_never_changes_the_list(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"n01/a.jpg": b"abc", "b.jpg": b"d"})
    whole, members = path.read_bytes(), listed(path)
    num_damaged = 0
    for bit in range(8 * 512):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = walk_bytes(damaged)
        except DamageError:
            num_damaged += 1
        else:
            assert found == members, f"bit {bit} went unnoticed"
    # The two characters behind the checksum's digits may each become the other.
    assert num_damaged >= 8 * 512 - 4


def test_a_tar_cut_anywhere_is_damage(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar", FILES).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for cut in (*range(0, end + 1024, 512), *range(100, end + 1024, 700)):
        with pytest.raises(DamageError, match=r"memory/a, byte \d+: "):
            walk_bytes(whole[:cut])
    assert len(walk_bytes(whole[: end + 1024])) == len(FILES)


def test_python_takes_a_tar_cut_at_a_members_boundary_for_whole(tmp_path: Path) -> None:
    (tmp_path / "cut.tar").write_bytes(write_tar(tmp_path / "a.tar", FILES).read_bytes()[:1536])
    assert len(listed_by_tarfile(tmp_path / "cut.tar")) == 1


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        ("an end block and then a member", bytes(512) + raw_header(b"b") + END),
        ("a tar behind the end", END + raw_header(b"b") + END),
        ("one end block", bytes(512)),
        ("one byte far behind the end", END + bytes(9000) + b"x"),
        ("a hole of 2 MiB", bytes(2 << 20)),
        ("garbage", b"x" * 512 + END),
        ("an unknown format", raw_header(b"b", magic=b"ustax\x0000") + END),
        ("a prefix in GNU's format", raw_header(b"b", magic=b"ustar  \0" + bytes(80) + b"prefix") + END),
        ("a size that is no number", raw_header(b"b", size=b"0000000000x\0") + END),
        ("a size behind a NUL", raw_header(b"b", size=b"\x000000000000\0") + END),
        ("a negative size", raw_header(b"b", size=b"\xff" * 12) + END),
        ("a size past the end", raw_header(b"b", size=b"77777777777\0") + END),
        ("an enormous size", raw_header(b"b", size=b"\x80" + b"\x7f" * 11) + END),
        ("a folder with content", raw_header(b"b/", kind=b"5", size=b"00000001000\0") + bytes(512) + END),
        ("a long name of nothing", extension(b"L", b"x" * 8) + END),
        ("a long name longer than it says", extension(b"L", b"name\0")[:-7] + b"x" * 7 + raw_header(b"b") + END),
        ("pax records of nothing", extension(b"x", b"9 a=bcde\n") + END),
        ("pax records without an end", extension(b"x", b"8 a=bcde") + raw_header(b"b") + END),
        ("pax records too long", extension(b"x", b"90 a=bc\n") + raw_header(b"b") + END),
        ("a long name that is too long", extension(b"L", bytes(MAX_EXTENSION_BYTES + 1)) + raw_header(b"b") + END),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_a_whole_tar_does_not_have_is_damage(name: str, tail: bytes) -> None:
    with pytest.raises(DamageError, match=r"memory/a, byte \d+: "):
        walk_bytes(raw_header(b"a") + tail)


def test_an_empty_file_is_damage_and_an_empty_tar_is_not() -> None:
    assert walk_bytes(bytes(10240)) == []
    with pytest.raises(DamageError, match="cut short"):
        walk_bytes(b"")


def test_two_names_for_one_member_are_refused() -> None:
    long = extension(b"L", b"longname")
    pax = extension(b"x", pax_record(b"path", b"other"))
    for pair in (long + pax, pax + long, long + long, pax + pax):
        with pytest.raises(DamageError, match="a second long name"):
            walk_bytes(pair + raw_header(b"b") + END)
    assert [member.name for member in walk_bytes(long + raw_header(b"b") + END)] == ["longname"]


def test_a_name_for_all_members_is_refused() -> None:
    header = extension(b"g", pax_record(b"path", b"other"))
    with pytest.raises(DamageError, match="for all members"):
        walk_bytes(header + raw_header(b"b") + END)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
        (b"V", "a member of kind 'V'"),
    ],
)
def test_what_is_no_plain_file_is_refused_by_name(kind: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(raw_header(b"good") + raw_header(b"cats/odd", kind=kind) + END)
    with pytest.raises(UserError, match=f"'cats/odd' is {what}; refused"):
        listed(path)


def test_a_long_link_is_refused(tmp_path: Path) -> None:
    member = special_member("odd", kind=tarfile.SYMTYPE)
    member.linkname = "x" * 300
    with pytest.raises(UserError, match="a link; refused"):
        listed(write_member(tmp_path / "a.tar", member))


def test_a_sparse_member_of_pax_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("odd")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    with pytest.raises(UserError, match="a sparse file"):
        listed(write_member(tmp_path / "a.tar", member, format=tarfile.PAX_FORMAT))


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize(
    "name",
    ["../a.jpg", "/etc/passwd", "a/../../b", "a/..", "./../a", ".//a", "a\\b", "..", "x" * 120 + "/../" + "y" * 90],
)
def test_a_name_that_leads_out_is_refused(name: str, format: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leads out of the archive; refused"):
        listed(write_member(tmp_path / "a.tar", special_member(name), format=format))


def test_a_folder_that_leads_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leads out"):
        listed(write_member(tmp_path / "a.tar", special_member("../a", kind=tarfile.DIRTYPE)))


def test_a_name_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UserError, match=r"memory/a, byte 0: the name b'caf\\xe9.jpg' is not UTF-8"):
        walk_bytes(raw_header(b"caf\xe9.jpg") + END)


@pytest.mark.parametrize("name", [b"", b"./", b"a/", b"."])
def test_a_file_without_a_name_is_refused(name: bytes) -> None:
    with pytest.raises(UserError, match="a file by the name"):
        walk_bytes(raw_header(name) + END)


def test_folders_of_old_tars_are_passed_over() -> None:
    content = raw_header(b"cats/", kind=b"\0", magic=bytes(8)) + raw_header(b"cats/a", kind=b"\0", magic=bytes(8)) + END
    assert [member.name for member in walk_bytes(content)] == ["cats/a"]


def test_a_missing_tar_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.tar: missing"):
        listed(tmp_path / "no.tar")


def test_one_read_a_member_where_members_are_large_and_few_where_they_are_small(tmp_path: Path) -> None:
    near_bytes, ahead_bytes = REMOTE_AHEAD
    path = write_tar(tmp_path / "large.tar", {str(n): bytes(near_bytes) for n in range(50)})
    store: Any = BytesStore(path.read_bytes())
    assert len(list(walk_tar(store, "a"))) == 50
    assert store.num_reads <= 50 + 3
    assert store.num_bytes <= 50 * 512 + 3 * ahead_bytes
    path = write_tar(tmp_path / "small.tar", {str(n): bytes(600) for n in range(1000)})
    store = BytesStore(path.read_bytes())
    assert len(list(walk_tar(store, "a"))) == 1000
    assert store.num_reads <= len(store.content) // ahead_bytes + 3


def test_no_header_makes_the_walker_read_much() -> None:
    store: Any = BytesStore(raw_header(b"l", kind=b"x", size=b"%011o\0" % (MAX_EXTENSION_BYTES + 1)) + bytes(1 << 20))
    with pytest.raises(DamageError, match="pax records of 65537 bytes"):
        list(walk_tar(store, "a"))
    assert store.num_bytes <= REMOTE_AHEAD[1]


@dataclass(frozen=True)
class TarOfTars:
    store: Store
    parts: list[tuple[str, int, int | None]]
    expected: list[list[TarMember]]


@pytest.fixture
def tar_of_tars(tmp_path: Path) -> TarOfTars:
    inner = {}
    for number in range(40):
        path = write_tar(tmp_path / "inner.tar", {f"{number}_{n}.jpg": bytes(n) for n in range(number)})
        inner[f"n{number:03d}.tar"] = path.read_bytes()
    write_tar(tmp_path / "outer.tar", inner)
    store = open_store(str(tmp_path))
    parts = [("outer.tar", found.offset, found.offset + found.size_bytes) for found in walk_tar(store, "outer.tar")]
    expected = [list(walk_tar(store, name, start=start, end=end)) for name, start, end in parts]
    return TarOfTars(store, parts, expected)


@pytest.mark.parametrize("threads", [1, 3, 64])
def test_parts_walked_at_once_come_in_their_order(threads: int, tar_of_tars: TarOfTars) -> None:
    assert list(walk_tars_concurrently(tar_of_tars.store, tar_of_tars.parts, threads=threads)) == tar_of_tars.expected


def test_the_first_part_that_fails_is_the_error_and_those_before_come(tar_of_tars: TarOfTars) -> None:
    parts = [*tar_of_tars.parts[:20], ("missing.tar", 0, None), ("outer.tar", 5, None), *tar_of_tars.parts]
    found = []

    def collect(walks: Iterator[list[TarMember]]) -> None:
        for members in walks:
            found.append(members)  # noqa: PERF402

    with pytest.raises(UserError, match=r"missing\.tar: missing"):
        collect(walk_tars_concurrently(tar_of_tars.store, parts, threads=4))
    assert found == tar_of_tars.expected[:20]


def test_no_parts_are_no_walks(tar_of_tars: TarOfTars) -> None:
    assert list(walk_tars_concurrently(tar_of_tars.store, [], threads=4)) == []
