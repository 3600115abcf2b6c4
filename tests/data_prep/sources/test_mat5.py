from __future__ import annotations

import re
import struct
import tarfile
import zlib
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources.mat5 import read_struct_rows
from imagenet_sets import DEVKIT, SHARED_IMAGENET, Synset, kit_synsets, meta_mat
from pipeline.shards.errors import DamageError

FIELDS = ("words", "ILSVRC2012_ID", "WNID")
ROWS = [(synset.words, synset.number, synset.wordnet_id) for synset in kit_synsets()]


def read(content: bytes, *, fields: tuple[str, ...] = FIELDS, variable: str = "synsets") -> list[tuple[str | int, ...]]:
    return read_struct_rows(content, variable=variable, fields=fields, where="meta.mat")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("text_type", "number_type"), [(1, 1), (2, 2), (16, 3), (4, 4), (17, 5), (18, 6), (4, 7)])
def test_rows_come_out_as_written_in_every_type_and_byte_order(
    order: str, packed: bool, text_type: int, number_type: int
) -> None:
    assert (
        read(meta_mat(kit_synsets(), order=order, packed=packed, text_type=text_type, number_type=number_type)) == ROWS
    )


@given(
    st.lists(
        st.builds(
            Synset,
            number=st.integers(0, 2**53),
            wordnet_id=st.from_regex(r"n\d{8}", fullmatch=True),
            words=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40),
            children=st.integers(0, 5),
        ),
        max_size=8,
    ),
    st.sampled_from([4, 16, 17, 18]),
)
def test_any_text_and_number_comes_back(synsets: list[Synset], text_type: int) -> None:
    rows = [(synset.words, synset.number, synset.wordnet_id) for synset in synsets]
    assert read(meta_mat(synsets, text_type=text_type)) == rows


def test_the_kit_of_the_real_layout_reads_as_its_own_bytes_say() -> None:
    if not SHARED_IMAGENET.is_dir():
        pytest.skip("shared/data is not here")
    with tarfile.open(SHARED_IMAGENET / f"{DEVKIT}.tar.gz") as archive:
        stream = archive.extractfile(f"{DEVKIT}/data/meta.mat")
        assert stream is not None
        content = stream.read()
    rows = read(content)
    plain = zlib.decompress(content[136:]).replace(b"\0", b"")
    assert [row[2] for row in rows] == [found.decode() for found in re.findall(rb"n\d{8}", plain)]
    assert [row[1] for row in rows] == list(range(1, 1861))
    mapping = (SHARED_IMAGENET / "meta" / "LOC_synset_mapping.txt").read_text().splitlines()
    assert sorted(f"{row[2]} {row[0]}" for row in rows[:1000]) == mapping


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a MATLAB 5 file"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(999), "not a MATLAB 5 file"),
        (meta_mat([])[:128], "holds no variable 'synsets'"),
        (meta_mat(kit_synsets())[:-1], "cut short"),
        (meta_mat(kit_synsets(), packed=False)[:-9], "cut short"),
        (meta_mat(kit_synsets()) + b"x", ""),
    ],
)
def test_other_files_and_cut_ones_are_refused_by_name(content: bytes, reason: str) -> None:
    if not reason:
        assert read(content) == ROWS  # what lies behind the wanted variable is not looked at
        return
    with pytest.raises(DamageError, match=rf"^meta\.mat: {reason}"):
        read(content)


def test_a_field_or_variable_that_is_not_there_is_named() -> None:
    with pytest.raises(DamageError, match="'synsets' has no field 'colour'"):
        read(meta_mat(kit_synsets()), fields=("colour",))
    with pytest.raises(DamageError, match="holds no variable 'labels'"):
        read(meta_mat(kit_synsets()), variable="labels")
    with pytest.raises(DamageError, match=r"synsets\(1\).children is neither text nor one number"):
        read(meta_mat(kit_synsets()), fields=("children",))
    with pytest.raises(DamageError, match=r"ILSVRC2012_ID is 0.5, a whole number wanted"):
        # 1.0 becomes 0.5: the exponent's lowest bit.
        read(meta_mat(kit_synsets(), packed=False).replace(struct.pack("<d", 1), struct.pack("<d", 0.5)))


def test_bombs_are_refused_before_they_are_unpacked() -> None:
    bomb = zlib.compress(bytes(65 << 20))
    head = meta_mat([])[:128]
    with pytest.raises(DamageError, match="unpacks to more than 67108864 bytes"):
        read(head + struct.pack("<II", 15, len(bomb)) + bomb)
    content = bytearray(meta_mat(kit_synsets(), packed=False))
    shape = content.index(struct.pack("<2i", len(ROWS), 1))
    for sides in ((2**31 - 1, 2**31 - 1), (10**6, 1), (-1, 1)):
        content[shape : shape + 8] = struct.pack("<2i", *sides)
        with pytest.raises(DamageError, match=r"cut short: its shape|an array of shape"):
            read(bytes(content))


@given(st.data(), st.booleans())
@settings(max_examples=400)
def test_a_cut_or_flipped_file_is_refused_or_read_and_nothing_else_happens(data: st.DataObject, packed: bool) -> None:
    content = bytearray(meta_mat(kit_synsets(), packed=packed))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(0, len(content)))
    for damaged in (bytes(content), bytes(content[:cut])):
        with suppress(DamageError):
            rows = read(damaged)
            # A packed array carries its own checksum: what reads at all reads right.
            assert rows == ROWS or not packed


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_behind_a_good_head_are_refused(tail: bytes, packed: bool) -> None:
    head = meta_mat([])[:128]
    body = zlib.compress(tail) if packed else tail
    with pytest.raises(DamageError, match=r"^meta\.mat: "):
        read(head + (struct.pack("<II", 15, len(body)) if packed else b"") + body)
