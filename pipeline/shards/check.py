"""Checking stored shards against what their manifest says.

`check_sizes` costs one stat a file and runs before every use. `find_damage` re-reads every byte: SHA-256 says
whether a file changed, each record's CRC-32 says where. Neither edits anything.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.shards.errors import DamageError
from pipeline.shards.index import IndexRows, check_index, read_index
from pipeline.shards.manifest import DataSet, ShardEntry, Split
from pipeline.shards.record import END_OF_ARCHIVE, LABEL_DIGITS, PackedLayout

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
                relation = "cut short" if found_bytes < size_bytes else "too long"
                raise DamageError(f"{path}: {relation}: {found_bytes} bytes, the manifest says {size_bytes}; {MEND}")


def find_damage(data_set: DataSet, shard: ShardEntry) -> Iterator[str]:
    """Re-read one shard and its sidecar and yield a line for each fault found, naming shard and record."""
    try:
        if file_sha256(shard.index_path) != shard.index_sha256:
            yield f"{shard.index_path}: the sidecar's SHA-256 is not the manifest's"
        rows = read_index(shard.index_path, num_samples=shard.num_samples)
        check_index(shard.index_path, rows, shard_bytes=shard.size_bytes, num_classes=data_set.num_classes)
    except (DamageError, FileNotFoundError) as error:
        yield str(error)
        rows = None
    if not shard.path.is_file():
        yield f"{shard.path}: the shard is missing"
        return
    found_bytes = shard.path.stat().st_size
    if found_bytes != shard.size_bytes:
        yield f"{shard.path}: {found_bytes} bytes, the manifest says {shard.size_bytes}"
    if file_sha256(shard.path) == shard.sha256:
        if rows is not None:
            yield from _find_disagreement(shard, rows, data_set.packed)
        return
    if rows is None:
        yield f"{shard.path}: the shard's SHA-256 is not the manifest's"
        return
    faults = list(_find_bad_records(shard, rows))
    yield from faults or [f"{shard.path}: damaged outside its records (end of archive)"]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _find_bad_records(shard: ShardEntry, rows: IndexRows) -> Iterator[str]:
    with shard.path.open("rb") as stream:
        for record, row in enumerate(rows):
            stream.seek(int(row["record_offset"]))
            content = stream.read(int(row["record_bytes"]))
            if len(content) < int(row["record_bytes"]):
                yield f"{shard.path}: record {record} and all after it are cut off (sample {_source(row)})"
                return
            if zlib.crc32(content) != int(row["crc32"]):
                yield f"{shard.path}: record {record} is damaged, CRC-32 differs (sample {_source(row)})"


def _source(row: IndexRows) -> str:
    return bytes(row["source_key"]).decode("utf-8", "replace")


def _find_disagreement(shard: ShardEntry, rows: IndexRows, packed: PackedLayout | None) -> Iterator[str]:
    """Hold a shard with the right bytes against its sidecar: Python's own tar reader is the witness."""
    with tarfile.open(shard.path, "r:") as archive:
        members = archive.getmembers()
    if len(members) != 2 * len(rows):
        yield f"{shard.path}: {len(members)} tar members, {2 * len(rows)} wanted"
        return
    end = int(rows["record_offset"][-1] + rows["record_bytes"][-1]) if len(rows) else 0
    if end + len(END_OF_ARCHIVE) != shard.size_bytes:
        yield f"{shard.path}: {shard.size_bytes - end} bytes after the last record"
    with shard.path.open("rb") as stream:
        for record, row in enumerate(rows):
            label_of, image_of = members[2 * record : 2 * record + 2]
            stream.seek(label_of.offset_data)
            label = stream.read(LABEL_DIGITS)
            placed = (image_of.offset_data, image_of.size) == (int(row["image_offset"]), int(row["image_bytes"]))
            if not placed or label != b"%0*d" % (LABEL_DIGITS, int(row["label"])):
                yield f"{shard.path}: record {record} is not what its sidecar says (sample {_source(row)})"
            elif packed is not None and int(row["record_bytes"]) != packed.record_bytes:
                yield f"{shard.path}: record {record} has not the packed length {packed.record_bytes}"
