"""Records: the stored bytes of one sample, as members of a plain POSIX ustar tar.

A packed record (64x64 RGB shown) is constant in length, so the shard is an array:

    byte     0  ustar header of `<key>.cls`
           512  the label, 8 ASCII digits, padded with zero bytes to 512
          1024  ustar header of `<key>.ppm`
          1536  PPM header, 64 bytes: b"P6\\n#...\\n64 64\\n255\\n"
          1600  pixels, 64*64*3 uint8, rows first, channels last; padded with zero bytes to a multiple of 512

With several labels a sample the first member is `<key>.json`, `{"labels":[3,17]}` padded with spaces to one length
for the whole data set; of a regression `{"targets":[0.25,-1.5]}`, padded alike. An encoded record has the same first
member, where there are details a `<key>.json` that holds them, and then `<key>.jpg` (or png, webp) with the image's
bytes as they are. Format: docs/FORMAT.md; tar: POSIX.1-1988 ustar; PPM and PGM: the Netpbm specifications.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK_BYTES = 512
END_OF_ARCHIVE = bytes(2 * BLOCK_BYTES)
LABEL_DIGITS = 8
PIXEL_ALIGNMENT_BYTES = 64
MAX_KEY_BYTES = 90
MAX_DETAILS_BYTES = 1 << 20
MAX_MEMBER_BYTES = 8**11 - 1
KEY_PATTERN = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_KEY_BYTES}}}")
ENCODED_EXTENSIONS = ("jpg", "png", "webp")

ImageArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Targets:
    """What a model is to give for one sample of a regression, a number for each output.

    Raises:
        ValueError: none, one that is not finite, or one that float32 does not hold exactly.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        with np.errstate(over="ignore"):
            held = np.array(self.values, dtype=np.float32)
        if not len(held) or not np.isfinite(held).all() or held.tolist() != list(self.values):
            raise ValueError(f"targets {list(self.values)}: finite numbers of float32 wanted, at least one")


# One class number, for several labels their sorted distinct class numbers, or the targets of a regression.
Label = int | Sequence[int] | Targets


def padded_bytes(size_bytes: int) -> int:
    """Return `size_bytes` rounded up to whole tar blocks."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


# What is the same in all headers, and the sum of its bytes; the checksum itself counts as spaces.
_MODE_AND_OWNER = b"0000644\0" + b"0000000\0" * 2
_TIME = b"\0" + b"0" * 11 + b"\0"
_REST = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
_HEADER_SUM = sum(_MODE_AND_OWNER) + sum(_TIME) + 8 * ord(" ") + sum(_REST)


def ustar_header(name: str, size_bytes: int) -> bytes:
    """Return the 512-byte ustar header of a regular file: mode 0644, uid, gid and mtime 0, no names.

    Raises:
        ValueError: `name` is over 100 bytes or `size_bytes` is over 8 GiB - 1.
    """
    encoded_name = name.encode("ascii")
    if len(encoded_name) > 100:
        raise ValueError(f"member name {name!r} is longer than ustar's 100 bytes")
    if not 0 <= size_bytes <= MAX_MEMBER_BYTES:
        raise ValueError(f"member size {size_bytes} is outside ustar's 0..{MAX_MEMBER_BYTES}")
    size = b"%011o" % size_bytes
    checksum = sum(encoded_name) + sum(size) + _HEADER_SUM
    return b"%b%b%b%b%06o\0 %b" % (encoded_name.ljust(100, b"\0"), _MODE_AND_OWNER, size, _TIME, checksum, _REST)


def member(name: str, content: bytes) -> bytes:
    """Return a whole tar member: header, content, padding."""
    return b"".join(_member_parts(name, content))


def _member_parts(name: str, content: bytes) -> tuple[bytes, bytes, bytes]:
    return ustar_header(name, len(content)), content, bytes(-len(content) % BLOCK_BYTES)


def label_member(key: str, label: int) -> bytes:
    """Return the constant-size `<key>.cls` member: the class number as 8 zero-padded ASCII digits."""
    _check_key(key)
    if not 0 <= label < 10**LABEL_DIGITS:
        raise ValueError(f"label {label}: 0 to {10**LABEL_DIGITS - 1} wanted")
    return member(f"{key}.cls", b"%0*d" % (LABEL_DIGITS, label))


def json_member(key: str, value: dict[str, Any], *, size_bytes: int | None = None) -> bytes:
    """Return the `<key>.json` member of one object, padded with spaces to `size_bytes` where that is given.

    Raises:
        ValueError: a bad key, or longer than `size_bytes` or 1 MiB.
    """
    _check_key(key)
    content = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    limit_bytes = MAX_DETAILS_BYTES if size_bytes is None else size_bytes
    if len(content) > limit_bytes:
        raise ValueError(f"{key}.json of {len(content)} bytes: at most {limit_bytes} wanted")
    return member(f"{key}.json", content.ljust(size_bytes or 0))


def label_object(label: Sequence[int] | Targets) -> dict[str, Any]:
    """Return what a `.json` member says of several labels, or of targets."""
    return {"targets": list(label.values)} if isinstance(label, Targets) else {"labels": list(label)}


def targets_bytes(targets: Sequence[float]) -> int:
    """Return how many bytes the `.json` member of these targets needs."""
    return len(json.dumps({"targets": targets}, separators=(",", ":")))


def labels_bytes(labels: Sequence[int]) -> int:
    """Return how many bytes the `.json` member of these labels needs."""
    return len('{"labels":[]}') + sum(len(str(label)) for label in labels) + max(0, len(labels) - 1)


def _check_key(key: str) -> None:
    if not KEY_PATTERN.fullmatch(key):
        raise ValueError(f"key {key!r}: 1 to {MAX_KEY_BYTES} of A-Z a-z 0-9 _ - wanted")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedLayout:
    """The geometry of packed records: uint8 images of one shape, channels 3 (PPM) or 1 (PGM).

    `label_bytes` is the length of the `.json` member of several labels or of targets; None for one label, in a `.cls`.
    """

    height: int
    width: int
    channels: int
    label_bytes: int | None = None

    def __post_init__(self) -> None:
        for field in ("height", "width"):
            if not 1 <= getattr(self, field) <= 65_535:
                raise ValueError(f"{field}={getattr(self, field)}: 1 to 65535 wanted")
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels}: 1 or 3 wanted")
        if self.label_bytes is not None and not 1 <= self.label_bytes <= MAX_DETAILS_BYTES:
            raise ValueError(f"label_bytes={self.label_bytes}: 1 to {MAX_DETAILS_BYTES} wanted")

    @property
    def extension(self) -> str:
        return "ppm" if self.channels == 3 else "pgm"

    @property
    def pixel_bytes(self) -> int:
        return self.height * self.width * self.channels

    @property
    def image_header(self) -> bytes:
        """The constant PPM or PGM header: a comment pads it to 64 bytes, so that pixels are aligned."""
        magic = b"P6" if self.channels == 3 else b"P5"
        tail = b"\n%d %d\n255\n" % (self.width, self.height)
        return magic + b"\n#" + b"." * (PIXEL_ALIGNMENT_BYTES - len(magic) - 2 - len(tail)) + tail

    @property
    def image_offset(self) -> int:
        """Where the PPM or PGM file starts inside the record."""
        return 2 * BLOCK_BYTES + padded_bytes(self.label_bytes or LABEL_DIGITS)

    @property
    def image_bytes(self) -> int:
        return PIXEL_ALIGNMENT_BYTES + self.pixel_bytes

    @property
    def pixel_offset(self) -> int:
        """Where the first pixel stands inside the record; a multiple of 64."""
        return self.image_offset + PIXEL_ALIGNMENT_BYTES

    @property
    def record_bytes(self) -> int:
        return self.image_offset + padded_bytes(self.image_bytes)

    def pack(self, *, key: str, label: Label, image_HWC: ImageArray) -> bytes:
        """Return the record of one image, uint8 of shape (height, width, channels).

        Raises:
            ValueError: another shape or dtype, a bad key, or a label out of range.
        """
        if image_HWC.shape != (self.height, self.width, self.channels) or image_HWC.dtype != np.uint8:
            raise ValueError(
                f"image of shape {image_HWC.shape} {image_HWC.dtype}:"
                f" {(self.height, self.width, self.channels)} uint8 wanted"
            )
        content = self.image_header + image_HWC.tobytes()
        if isinstance(label, int) != (self.label_bytes is None):
            raise ValueError(f"label {label!r}: does not go with label_bytes={self.label_bytes}")
        if isinstance(label, int):
            labelled = label_member(key, label)
        else:
            labelled = json_member(key, label_object(label), size_bytes=self.label_bytes)
        return labelled + member(f"{key}.{self.extension}", content)


def pack_encoded(
    *, key: str, label: Label, image: bytes, extension: str, details: dict[str, Any] | None = None
) -> bytes:
    """Return the record of one image file kept as it is; the image is its last member.

    Args:
        extension: jpg, png or webp.
        details: what else is known of the image, kept in the record's `.json`, several labels or targets beside them.
    """
    if extension not in ENCODED_EXTENSIONS:
        raise ValueError(f"extension {extension!r}: one of {', '.join(ENCODED_EXTENSIONS)} wanted")
    if isinstance(label, int):
        head = label_member(key, label) + (json_member(key, details) if details is not None else b"")
    else:
        head = json_member(key, {**(details or {}), **label_object(label)})
    # One copy: images are most of the work where they are kept as they are.
    return b"".join((head, *_member_parts(f"{key}.{extension}", image)))
