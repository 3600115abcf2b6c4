"""Checking stored shards against what their manifest says.

`check_sizes` costs one stat a file and runs before every use. `find_damage` re-reads every byte: SHA-256 says
whether a file changed, each record's CRC-32 says where. `find_malformed` asks whether what the checksums vouch for is
of the format at all. None of them edits anything.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.shards.errors import DamageError
from pipeline.shards.index import LABEL_COLUMNS, NO_LABEL, IndexRows, check_index, read_index
from pipeline.shards.manifest import DataSet, ShardEntry, Split
from pipeline.shards.record import (
    BLOCK_BYTES,
    ENCODED_EXTENSIONS,
    END_OF_ARCHIVE,
    KEY_PATTERN,
    LABEL_DIGITS,
    padded_bytes,
)
from pipeline.shards.task import Task

MEND = "prepare the data set again, or restore the file"


def check_sizes(split: Split) -> None:
    """Check that every shard and sidecar of `split` is there and as long as the manifest says.

    Raises:
        DamageError: naming the first file that is missing or of another size.
    """
    for shard in split.shards:
        for path, size_bytes in ((shard.path, shard.size_bytes), (shard.index_path, shard.index_bytes)):
            try:
                found_bytes = path.stat().st_size
            except FileNotFoundError:
                raise DamageError(f"{path}: missing; {MEND}") from None
            if found_bytes != size_bytes:
                raise DamageError(f"{_size_fault(path, found_bytes, size_bytes)}; {MEND}")


def find_damage(data_set: DataSet, shard: ShardEntry) -> Iterator[str]:
    """Re-read one shard and its sidecar and yield a line for each fault found, naming shard and record."""
    rows = None
    try:
        if file_sha256(shard.index_path) != shard.index_sha256:
            yield f"{shard.index_path}: the sidecar's SHA-256 is not the manifest's"
        rows = _checked_rows(data_set, shard)
    except DamageError as error:
        yield str(error)
    except OSError as error:
        yield f"{shard.index_path}: the sidecar of {shard.path.name} cannot be read ({error.strerror})"
    try:
        if file_sha256(shard.path) == shard.sha256:
            return
        faults = []
        found_bytes = shard.path.stat().st_size
        if found_bytes != shard.size_bytes:
            faults = [_size_fault(shard.path, found_bytes, shard.size_bytes)]
        if rows is not None:
            faults += _find_bad_records(shard, rows)
        # No record to blame: the end of the archive is damaged, or shard and sidecar are another's.
        yield from faults or [f"{shard.path}: the shard's SHA-256 is not the manifest's"]
    except OSError as error:
        yield f"{shard.path}: the shard cannot be read ({error.strerror})"


def find_malformed(data_set: DataSet, shard: ShardEntry) -> Iterator[str]:
    """Hold an undamaged shard against its sidecar and the format, and yield a line for each fault of its writer."""
    rows = _checked_rows(data_set, shard)
    if data_set.is_foreign:
        yield from _find_malformed_foreign(shard, rows)
        return
    keys: set[str] = set()
    end = 0
    with shard.path.open("rb") as stream:
        for record, row in enumerate(rows):
            if int(row["record_offset"]) != end:
                yield f"{shard.path}: record {record} starts at byte {row['record_offset']}, not at {end}"
            end = int(row["record_offset"]) + int(row["record_bytes"])
            try:
                key = _check_record(_record_bytes(stream, row), row, data_set)
                if key in keys:
                    raise ValueError(f"key {key} stands there twice")
                keys.add(key)
            except (ValueError, tarfile.HeaderError) as error:
                yield f"{shard.path}: record {record} (sample {_source(row)}): {error}"
        stream.seek(end)
        if stream.read() != END_OF_ARCHIVE:
            yield f"{shard.path}: after its last record not {len(END_OF_ARCHIVE)} zero bytes and the end"


def _find_malformed_foreign(shard: ShardEntry, rows: IndexRows) -> Iterator[str]:
    """Others wrote the records: each must hold whole members, one of them the image where the sidecar says."""
    with shard.path.open("rb") as stream:
        for record, row in enumerate(rows):
            try:
                content = _record_bytes(stream, row)
                image = int(row["image_offset"]) - int(row["record_offset"]), int(row["image_bytes"])
                with tarfile.open(fileobj=io.BytesIO(content + END_OF_ARCHIVE), mode="r:") as members:
                    if image not in [(member.offset_data, member.size) for member in members if member.isreg()]:
                        raise ValueError("no member is where the sidecar says that the image is")
            except (ValueError, tarfile.TarError) as error:
                yield f"{shard.path}: record {record} (sample {_source(row)}): {error}"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _size_fault(path: Path, found_bytes: int, size_bytes: int) -> str:
    relation = "cut short" if found_bytes < size_bytes else "too long"
    return f"{path}: {relation}: {found_bytes} bytes, the manifest says {size_bytes}"


def _checked_rows(data_set: DataSet, shard: ShardEntry) -> IndexRows:
    rows = read_index(shard.index_path, num_samples=shard.num_samples)
    check_index(
        shard.index_path,
        rows,
        shard_bytes=shard.size_bytes,
        num_classes=data_set.num_classes,
        packed=data_set.packed,
        task=data_set.task,
    )
    return rows


def _find_bad_records(shard: ShardEntry, rows: IndexRows) -> Iterator[str]:
    with shard.path.open("rb") as stream:
        for record, row in enumerate(rows):
            content = _record_bytes(stream, row)
            if len(content) < int(row["record_bytes"]):
                yield f"{shard.path}: record {record} and all after it are cut off (sample {_source(row)})"
                return
            if zlib.crc32(content) != int(row["crc32"]):
                yield f"{shard.path}: record {record} is damaged, CRC-32 differs (sample {_source(row)})"


def _record_bytes(stream: BinaryIO, row: IndexRows) -> bytes:
    stream.seek(int(row["record_offset"]))
    return stream.read(int(row["record_bytes"]))


def _source(row: IndexRows) -> str:
    return bytes(row["source_key"]).decode("utf-8", "replace")


def _check_record(content: bytes, row: IndexRows, data_set: DataSet) -> str:
    """Return the key of a record that is what its sidecar's row and the format say.

    Raises:
        ValueError, tarfile.HeaderError: saying what is wrong with it. Python's own header reader is the witness.
    """
    if zlib.crc32(content) != int(row["crc32"]):
        raise ValueError("its CRC-32 is not the sidecar's")
    members = list(_members(content))
    names = [name for name, _, _ in members] or [""]
    key, _, extension = names[-1].partition(".")
    packed = data_set.packed
    if not KEY_PATTERN.fullmatch(key) or names[:-1] not in _heads(key, data_set):
        raise ValueError(f"its members are {names}")
    if extension not in (ENCODED_EXTENSIONS if packed is None else (packed.extension,)):
        raise ValueError(f"its image is a .{extension}")
    for name, start, size_bytes in members[:-1]:
        _check_label(name.partition(".")[2], content[start : start + size_bytes], row, data_set)
    image_offset = int(row["image_offset"]) - int(row["record_offset"])
    _, start, size_bytes = members[-1]
    if (image_offset, size_bytes) != (start, int(row["image_bytes"])):
        raise ValueError(f"its image has {size_bytes} bytes, the sidecar says {row['image_bytes']} at {image_offset}")
    if packed is not None and content[image_offset : packed.pixel_offset] != packed.image_header:
        raise ValueError("its image header is not that of the layout")
    return key


def _members(content: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield (name, offset of the content, size) of each member of a record, which they fill."""
    offset = 0
    while offset < len(content):
        header = tarfile.TarInfo.frombuf(content[offset : offset + BLOCK_BYTES], "ascii", "strict")
        if not header.isreg():
            raise ValueError(f"its member {header.name!r} is no plain file")
        yield header.name, offset + BLOCK_BYTES, header.size
        offset += BLOCK_BYTES + padded_bytes(header.size)
    if offset != len(content):
        raise ValueError(f"it has {len(content)} bytes, {offset} wanted")


def _heads(key: str, data_set: DataSet) -> list[list[str]]:
    """Return what may stand before a record's image."""
    if data_set.task is not Task.classification:
        return [[f"{key}.json"]]
    return [[f"{key}.cls"]] if data_set.packed is not None else [[f"{key}.cls"], [f"{key}.cls", f"{key}.json"]]


def _check_label(extension: str, content: bytes, row: IndexRows, data_set: DataSet) -> None:
    if extension == "cls":
        if content != b"%0*d" % (LABEL_DIGITS, int(row["label"])):
            raise ValueError(f"its label is {content!r}, the sidecar says {row['label']}")
        return
    try:
        details = json.loads(content)
        found = [] if data_set.task is Task.classification else details[LABEL_COLUMNS[data_set.task]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("its .json is not of the form in docs/FORMAT.md") from None
    if data_set.task is not Task.classification:
        name = LABEL_COLUMNS[data_set.task]
        wanted = row[name].tolist()
        if data_set.task is Task.multilabel:
            wanted = [label for label in wanted if label != NO_LABEL]
        # true equals 1 in Python, and is no number in JSON.
        if found != wanted or bool in map(type, found):
            raise ValueError(f"its {name} are {found}, the sidecar says {wanted}")
        if data_set.packed is not None and len(content) != data_set.packed.label_bytes:
            raise ValueError(f"its .json has {len(content)} bytes, {data_set.packed.label_bytes} wanted")
