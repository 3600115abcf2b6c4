"""Which samples a card shows, and their small pictures.

picked = PickedIds(key=make_key("card", "train"), num_each=6)
picked.add(groups=labels, first_id=0)       # of every shard in turn; any cut of them gives the same
picked.ids()                                # the ids, by group: 6 of each class, drawn by a keyed hash
"""

from __future__ import annotations

import base64
import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from data_prep.config import MAX_PIXELS_LIMIT, EncodedLayoutConfig
from data_prep.encode import open_picture, to_mode
from pipeline.shards.keyed import random_bits
from pipeline.shards.record import PackedLayout

# Longest side of a small picture, more than it is shown at, for sharp screens.
THUMBNAIL_PIXELS = 160
# Up to this many pixels a picture is kept as it is, in a PNG.
LOSSLESS_PIXELS = 64 * 64
JPEG_QUALITY = 80


class PickedIds:
    """Draws up to `num_each` ids of each group, those whose keyed hashes are least. Memory: what is picked."""

    def __init__(self, *, key: int, num_each: int) -> None:
        self.key, self.num_each = key, num_each
        self._groups = np.empty(0, dtype=np.int64)
        self._ids = np.empty(0, dtype=np.int64)

    def add(self, *, groups: npt.NDArray[Any], first_id: int) -> None:
        """Offer ids first_id, first_id + 1, ... of the given groups."""
        all_groups = np.concatenate([self._groups, groups.astype(np.int64)])
        all_ids = np.concatenate([self._ids, np.arange(first_id, first_id + len(groups))])
        order = np.lexsort((random_bits(self.key, all_ids), all_groups))
        in_order = all_groups[order]
        rank = np.arange(len(order)) - np.searchsorted(in_order, in_order)
        kept = order[rank < self.num_each]
        self._groups, self._ids = all_groups[kept], all_ids[kept]

    def ids(self) -> list[int]:
        """Return the ids picked so far, group after group."""
        return [int(number) for number in self._ids]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A small picture as a PNG or JPEG file."""

    width: int
    height: int
    kind: str
    content: bytes

    @property
    def uri(self) -> str:
        return f"data:image/{self.kind};base64,{base64.b64encode(self.content).decode()}"


def thumbnail(image: bytes, *, packed: PackedLayout | None) -> Thumbnail | None:
    """Return a small picture of a stored image, the bytes of its member; None where it cannot be decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = _packed_picture(image, packed) if packed is not None else _encoded_picture(image)
            return _compressed(picture)
    except Exception:  # Pillow's decoders raise almost anything on broken input
        return None


def _packed_picture(image: bytes, packed: PackedLayout) -> Image.Image:
    pixels = np.frombuffer(image, dtype=np.uint8, offset=len(packed.image_header))
    shape = (packed.height, packed.width, 3) if packed.channels == 3 else (packed.height, packed.width)
    return Image.fromarray(pixels.reshape(shape))


def _encoded_picture(image: bytes) -> Image.Image:
    picture = open_picture(image, config=EncodedLayoutConfig(max_pixels=MAX_PIXELS_LIMIT))
    picture.draft(None, (2 * THUMBNAIL_PIXELS, 2 * THUMBNAIL_PIXELS))
    return to_mode(picture, channels=3)


def _compressed(picture: Image.Image) -> Thumbnail:
    lossless = picture.width * picture.height <= LOSSLESS_PIXELS
    if not lossless:
        picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        picture.info.clear()
    stream = io.BytesIO()
    picture.save(stream, format="PNG" if lossless else "JPEG", quality=JPEG_QUALITY, optimize=True)
    kind = "png" if lossless else "jpeg"
    return Thumbnail(width=picture.width, height=picture.height, kind=kind, content=stream.getvalue())
