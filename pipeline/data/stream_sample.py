"""One sample of a stream: its members' bytes to pixels of the wanted shape and a class number.

    pixels_HWC, label = decode_sample({"jpg": b"...", "cls": b"7"}, layout=layout, num_classes=10, label_field="label")

The image is decoded by Pillow, the label read as text; a member that is neither (`.pyd`, `.pickle`, `.pth`, ...) is not
even taken from the tar. Whatever is wrong with a sample is a BadSample that says what.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from pipeline.shards.record import PackedLayout

# The members taken, each kind by the first that is there.
IMAGE_MEMBERS = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "pgm")
LABEL_MEMBERS = {"cls": 1 << 12, "json": 1 << 20, "txt": 1 << 12}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM")
MAX_PIXELS = 1 << 26  # Pillow itself warns of more than 89 million
_CLASS_NUMBER = re.compile(r"\d{1,18}", re.ASCII)

Pixels = npt.NDArray[np.uint8]


class BadSample(Exception):
    """A sample that cannot be trained on; the message is the reason."""


def is_wanted(name: str) -> bool:
    """Tell whether a member is an image or a label, by what follows the first dot of its name."""
    extension = name.rpartition("/")[2].partition(".")[2].lower()
    return extension in IMAGE_MEMBERS or extension in LABEL_MEMBERS


def decode_sample(
    members: Mapping[str, bytes], *, layout: PackedLayout, num_classes: int, label_field: str
) -> tuple[Pixels, int]:
    """Return pixels (height, width, channels) and the class number of a sample, its members by their extension.

    Raises:
        BadSample: it has no image or no label, or one that is not to be used.
    """
    label = _label_of(members, label_field=label_field)
    if not 0 <= label < num_classes:
        raise BadSample(f"its label {label} is outside the {num_classes:,} classes")
    image = next((members[name] for name in IMAGE_MEMBERS if name in members), None)
    if image is None:
        raise BadSample(f"it has no image ({', '.join(IMAGE_MEMBERS)})")
    try:
        return decode_image(image, layout=layout), label
    except UnidentifiedImageError:
        raise BadSample("its image is not a JPEG, PNG, WebP, BMP or PPM") from None
    except BadSample:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on broken input
        raise BadSample(f"its image cannot be decoded ({' '.join(str(error).split())})") from None


def decode_image(content: bytes, *, layout: PackedLayout) -> Pixels:
    """Return the largest centred part of an image that has the layout's shape, resized to it; of its size, as it is."""
    mode = "RGB" if layout.channels == 3 else "L"
    with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
        picture: Image.Image = opened
        if picture.width * picture.height > MAX_PIXELS:
            raise BadSample(f"its image of {picture.width}x{picture.height} pixels is over {MAX_PIXELS:,}")
        # A JPEG of 1/2, 1/4 or 1/8 straight from its coefficients, where that leaves twice what is wanted.
        scale = min(picture.width / layout.width, picture.height / layout.height) / 2
        picture.draft(mode, (int(picture.width / scale), int(picture.height / scale)))
        picture = _to_mode(picture, mode)
        scale = min(picture.width / layout.width, picture.height / layout.height)
        width, height = scale * layout.width, scale * layout.height
        left, top = (picture.width - width) / 2, (picture.height - height) / 2
        if picture.size != (layout.width, layout.height):
            box = (left, top, min(left + width, picture.width), min(top + height, picture.height))
            picture = picture.resize((layout.width, layout.height), Image.Resampling.BICUBIC, box=box)
        return np.asarray(picture).reshape(layout.height, layout.width, layout.channels)


def _to_mode(picture: Image.Image, mode: str) -> Image.Image:
    """Convert to 8 bits; of 16 the upper ones stay, and what is transparent shows its own colour."""
    if picture.mode.startswith("I"):
        scaled: Any = np.asarray(picture).astype(np.uint32) / 257.0
        picture = Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture if picture.mode == mode else picture.convert(mode)


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
