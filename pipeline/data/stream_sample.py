"""One sample of a stream: its members' bytes to the image's bytes and size, and a class number.

    found = parse_sample({"jpg": b"...", "cls": b"7"}, num_classes=10, label_field="label")
    found.label, found.height, found.width      # 7, 375, 500

The label is read as text, and of the image its header; a member that is neither (`.pyd`, `.pickle`, `.pth`, ...) is
not even taken from the tar. Whatever is wrong with a sample is a BadSample that says what.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import simplejpeg
from PIL import Image, UnidentifiedImageError

from pipeline.data.decode import FORMATS

# The members taken, each kind by the first that is there.
IMAGE_MEMBERS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm")
LABEL_MEMBERS = {"cls": 1 << 12, "json": 1 << 20, "txt": 1 << 12}
MAX_PIXELS = 1 << 26  # Pillow itself warns of more than 89 million
_CLASS_NUMBER = re.compile(r"\d{1,18}", re.ASCII)


class BadSample(Exception):
    """A sample that cannot be trained on; the message is the reason."""


def is_wanted(name: str) -> bool:
    """Tell whether a member is an image or a label, by what follows the first dot of its name."""
    extension = name.rpartition("/")[2].partition(".")[2].lower()
    return extension in IMAGE_MEMBERS or extension in LABEL_MEMBERS


class ParsedSample(NamedTuple):
    """A sample to be decoded: an image file, its size in pixels, and its class number."""

    image: bytes
    height: int
    width: int
    label: int


def parse_sample(members: Mapping[str, bytes], *, num_classes: int, label_field: str) -> ParsedSample:
    """Return what is to be decoded of a sample, its members by their extension.

    Raises:
        BadSample: it has no image or no label, or one that is not to be used.
    """
    label = _label_of(members, label_field=label_field)
    if not 0 <= label < num_classes:
        raise BadSample(f"its label {label} is outside the {num_classes:,} classes")
    image = next((members[name] for name in IMAGE_MEMBERS if name in members), None)
    if image is None:
        raise BadSample(f"it has no image ({', '.join(IMAGE_MEMBERS)})")
    height, width = _size_of(image)
    if not 1 <= height * width <= MAX_PIXELS:
        raise BadSample(f"its image of {width}x{height} pixels: 1 to {MAX_PIXELS:,} wanted")
    return ParsedSample(image=image, height=height, width=width, label=label)


def _size_of(image: bytes) -> tuple[int, int]:
    """Return height and width from an image file's header."""
    try:
        if image.startswith(b"\xff\xd8\xff"):
            with suppress(ValueError):  # a matter for Pillow
                height, width, _, _ = simplejpeg.decode_jpeg_header(image)
                return height, width
        with Image.open(io.BytesIO(image), formats=FORMATS) as picture:
            return picture.height, picture.width
    except UnidentifiedImageError:
        raise BadSample("its image is not a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM") from None
    except Exception as error:  # Pillow's readers raise almost anything on broken input
        raise BadSample(f"its image cannot be read ({' '.join(str(error).split())})") from None


def _label_of(members: Mapping[str, bytes], *, label_field: str) -> int:
    for name, max_bytes in LABEL_MEMBERS.items():
        if name not in members:
            continue
        if len(members[name]) > max_bytes:
            raise BadSample(f"its .{name} of {len(members[name]):,} bytes is over {max_bytes:,}")
        try:
            value: Any = members[name].decode().strip()
            if name == "json":
                facts = json.loads(value)
                value = facts.get(label_field) if isinstance(facts, dict) else None
                if value is None:
                    continue
        except (ValueError, RecursionError) as error:
            raise BadSample(f"its .{name} cannot be read ({' '.join(str(error).split())[:80]})") from None
        if not isinstance(value, bool) and _CLASS_NUMBER.fullmatch(str(value)):
            return int(value)
        raise BadSample(f"its .{name} holds {str(value)[:50]!a}, no class number")
    raise BadSample(f"it has no label (.cls, .json with the field {label_field}, .txt)")
