"""The sidecar of a tar that somebody else made, from one reading of all its bytes.

    indexed = index_tar(store, "imagenet1k-train-0000.tar", found)      # the samples that WebDatasetSource found in it
    indexed.content, indexed.entry

A record is the span of a sample's members, from its first header to the end of its last padding. Its image is the
member that the sidecar points at; nothing but the image's header is decoded, for its size.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.config import MAX_PIXELS_LIMIT, EncodedLayoutConfig
from data_prep.encode import image_size
from data_prep.sources.base import Rejected
from data_prep.sources.webdataset import Found
from data_prep.store_file import open_stored
from pipeline.shards.index import INDEX_SUFFIX, encode_index, make_index
from pipeline.shards.manifest import shard_row
from pipeline.shards.record import BLOCK_BYTES, padded_bytes
from pipeline.storage import Store

MAX_RECORD_BYTES = 1 << 30
PIECE_BYTES = 4 << 20
_LIMITS = EncodedLayoutConfig(max_pixels=MAX_PIXELS_LIMIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedTar:
    """What is known of a tar after it was read.

    Attributes:
        content: of the sidecar; None where no sample could be had.
        entry: the manifest's row, None likewise.
        rejected: source key and reason of what was left out.
    """

    content: bytes | None
    entry: dict[str, Any] | None
    rejected: list[tuple[str, str]]


def index_tar(store: Store, name: str, found: Sequence[Found], *, url: str, reasons: Sequence[str]) -> IndexedTar:
    """Read a tar once and return its sidecar.

    Args:
        store: where the tar lies.
        name: its name there.
        found: all its samples, in their order.
        url: its name in the manifest.
        reasons: why a sample cannot be had, by number.
    """
    sha256 = hashlib.sha256()
    rows: list[tuple[tuple[int, ...], int | list[int], bytes]] = []
    rejected: list[tuple[str, str]] = []
    with open_stored(store, name) as stream:
        for sample in found:
            start, end = _span(sample)
            if end - start > MAX_RECORD_BYTES:  # its bytes are hashed on the way to what follows
                reason_text = f"a sample of {end - start:,} bytes; at most {MAX_RECORD_BYTES:,} wanted"
                rejected.append((f"{name}/{sample.sample.key}", reason_text))
                continue
            _hash_until(stream, start, sha256)
            content = stream.read(end - start)
            sha256.update(content)
            try:
                if sample.reason is not None:
                    raise Rejected(reasons[sample.reason])
                row = _row(sample, content, start)
            except Rejected as reason:
                rejected.append((f"{name}/{sample.sample.key}", str(reason)))
            else:
                rows.append((row, sample.label, sample.sample.key.encode()))
        while piece := stream.read(PIECE_BYTES):
            sha256.update(piece)
        size_bytes = stream.tell()
    if not rows:
        return IndexedTar(content=None, entry=None, rejected=rejected)
    numbers, labels, keys = zip(*rows, strict=True)
    index = encode_index(make_index(numbers, labels=labels, source_keys=keys))
    entry = shard_row(
        url,
        samples=len(rows),
        size_bytes=size_bytes,
        sha256=sha256.hexdigest(),
        index_name=url.removesuffix(".tar") + INDEX_SUFFIX,
        index=index,
    )
    return IndexedTar(content=index, entry=entry, rejected=rejected)


def _span(found: Found) -> tuple[int, int]:
    """Return where a sample's record starts and ends."""
    members = found.sample.members.values()
    start = min(member.offset for member in members) - BLOCK_BYTES
    return start, max(member.offset + padded_bytes(member.size_bytes) for member in members)


def _hash_until(stream: io.BufferedReader, offset: int, sha256: Any) -> None:
    while (left_bytes := offset - stream.tell()) > 0:
        sha256.update(stream.read(min(left_bytes, PIECE_BYTES)))


def _row(found: Found, content: bytes, start: int) -> tuple[int, ...]:
    """Return the numbers of a sidecar's row. Raises Rejected for an image that cannot be had."""
    image = found.image
    assert image is not None
    place = image.offset - start
    width, height = image_size(content[place : place + image.size_bytes], config=_LIMITS)
    return start, len(content), image.offset, image.size_bytes, zlib.crc32(content), height, width
