"""Pictures in a terminal: a character shows two pixels, the upper as its colour and the lower as its background.

    print(draw_in_terminal([tile, ...], columns=100))

Needs a terminal of 24-bit colours, as nearly all are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipeline.track.contact_sheet import Pixels, Tile, to_image

# Widest picture, in columns; narrower where two tiles would not fit beside each other.
MAX_COLUMNS, MIN_COLUMNS = 32, 8
GAP = 1
SPACING = 3
RESET = "\x1b[0m"


def draw_in_terminal(tiles: Sequence[Tile], *, columns: int) -> str:
    """Return lines of half blocks and captions for a terminal `columns` wide."""
    num_pictures = max(len(tile.pictures) for tile in tiles)
    width = ((columns - SPACING) // 2 - (num_pictures - 1) * GAP) // num_pictures
    width = max(MIN_COLUMNS, min(MAX_COLUMNS, width))
    tile_width = num_pictures * (width + GAP) - GAP
    tiles_across = max(1, (columns + SPACING) // (tile_width + SPACING))
    lines: list[str] = []
    for start in range(0, len(tiles), tiles_across):
        blocks = [_draw_tile(tile, width=width, tile_width=tile_width) for tile in tiles[start : start + tiles_across]]
        height = max(map(len, blocks))
        padded = [block + [" " * tile_width] * (height - len(block)) for block in blocks]
        lines += [(" " * SPACING).join(parts).rstrip() for parts in zip(*padded, strict=True)]
        lines.append("")
    return "\n".join(lines)


def half_blocks(pixels_HWC: Pixels, *, width: int) -> list[str]:
    """Return the picture as lines of `width` characters."""
    picture = to_image(pixels_HWC)
    height = max(2, round(width * picture.height / picture.width / 2) * 2)
    shrinks = picture.width >= width and picture.height >= height
    small = picture.resize((width, height), Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST)
    rows = np.asarray(small).tolist()
    return ["".join(map(_cell, upper, lower)) + RESET for upper, lower in zip(rows[::2], rows[1::2], strict=True)]


def _cell(upper: list[int], lower: list[int]) -> str:
    (r, g, b), (r2, g2, b2) = upper, lower
    return f"\x1b[38;2;{r};{g};{b};48;2;{r2};{g2};{b2}m▀"


def _draw_tile(tile: Tile, *, width: int, tile_width: int) -> list[str]:
    pictures = [half_blocks(pixels_HWC, width=width) for pixels_HWC in tile.pictures]
    height = max(map(len, pictures))
    padded = [picture + [" " * width] * (height - len(picture)) for picture in pictures]
    drawn = [(" " * GAP).join(parts) for parts in zip(*padded, strict=True)]
    drawn = [line + " " * (tile_width - len(pictures) * (width + GAP) + GAP) for line in drawn]
    return drawn + [_shorten(line, tile_width).ljust(tile_width) for line in tile.lines]


def _shorten(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    keep_end = "/" in text and " " not in text
    return f"…{text[len(text) - width + 1 :]}" if keep_end else f"{text[: width - 1]}…"
