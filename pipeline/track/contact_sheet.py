"""A contact sheet: many small pictures on one PNG, each with its caption.

    tile = Tile(pictures=(before_HWC, after_HWC), lines=("7 horse", "slot 0, id 4711"))
    draw_sheet([tile, ...], title="runs/0007, step 1234").save("batch.png")
    png_of(draw_sheet(...))             # its bytes

A tile's pictures stand side by side, each in a box of the last one's size. Small ones are enlarged by a whole
factor, so that a pixel stays a square; what is larger than the box is shrunk into it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]

# Pictures are enlarged to at least the first and shrunk to at most the second number of pixels a side.
MIN_SIDE, MAX_SIDE = 112, 256
MIN_TILE_WIDTH = 208
# Of the sheets that a run draws: room for a class name of some twenty letters; and the most pixels that a picture has a
# side, as 24 of 224x224 would make a file of 1.5 MB.
NARROW_TILE_WIDTH, SMALL_SIDE = 144, 128
GAP, MARGIN, SPACING = 4, 16, 14
# Level 6, zlib's own choice, takes 1.7 to 5 times as long for 12 to 27 % less.
PNG_LEVEL = 1
FONT_SIZE, LINE_HEIGHT, TITLE_SIZE = 12, 15, 15
# Width over height that the sheet comes near to.
ASPECT = 1.4
BACKGROUND, FRAME, INK, FAINT = (255, 255, 255), (226, 226, 226), (20, 20, 20), (105, 105, 105)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Pictures of one sample, uint8 (H, W, C), and the lines under them; the first line is the strongest."""

    pictures: tuple[Pixels, ...]
    lines: tuple[str, ...]


def draw_sheet(tiles: Sequence[Tile], *, title: str, min_tile_width: int = MIN_TILE_WIDTH) -> Image.Image:
    """Return the sheet, tiles in reading order; all are given the room of the largest, and `min_tile_width` pixels."""
    font = _font(FONT_SIZE)
    boxes = [_box_of(tile) for tile in tiles]
    box_width, box_height = max(box[0] for box in boxes), max(box[1] for box in boxes)
    num_pictures = max(len(tile.pictures) for tile in tiles)
    tile_width = max(min_tile_width, num_pictures * (box_width + GAP) - GAP)
    tile_height = box_height + GAP + max(len(tile.lines) for tile in tiles) * LINE_HEIGHT
    columns = round(math.sqrt(len(tiles) * ASPECT * (tile_height + SPACING) / (tile_width + SPACING)))
    columns = min(len(tiles), max(1, columns))
    rows = -(-len(tiles) // columns)
    titles = _wrap(title, _font(TITLE_SIZE), columns * (tile_width + SPACING) - SPACING)
    top = MARGIN + len(titles) * (TITLE_SIZE + 6) + 8
    sheet = Image.new(
        "RGB",
        (
            2 * MARGIN + columns * (tile_width + SPACING) - SPACING,
            top + rows * (tile_height + SPACING) - SPACING + MARGIN,
        ),
        BACKGROUND,
    )
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(titles):
        draw.text((MARGIN, MARGIN + number * (TITLE_SIZE + 6)), line, fill=INK, font=_font(TITLE_SIZE))
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        left, upper = MARGIN + column * (tile_width + SPACING), top + row * (tile_height + SPACING)
        for index, pixels_HWC in enumerate(tile.pictures):
            picture = fit(pixels_HWC, width=box_width, height=box_height)
            x, y = left + index * (box_width + GAP), upper
            draw.rectangle((x, y, x + box_width - 1, y + box_height - 1), fill=FRAME)
            sheet.paste(picture, (x + (box_width - picture.width) // 2, y + (box_height - picture.height) // 2))
        for index, line in enumerate(tile.lines):
            where = (left, upper + box_height + GAP + index * LINE_HEIGHT)
            draw.text(where, _shorten(line, font, tile_width), fill=FAINT if index else INK, font=font)
    return sheet


def png_of(image: Image.Image) -> bytes:
    """Return an image as a PNG file."""
    stream = io.BytesIO()
    image.save(stream, format="PNG", compress_level=PNG_LEVEL)
    return stream.getvalue()


def fit(pixels_HWC: Pixels, *, width: int, height: int) -> Image.Image:
    """Return the picture as large as it can be in a box: whole factors up, any down."""
    picture = to_image(pixels_HWC)
    factor = min(width // picture.width, height // picture.height)
    if factor >= 1:
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    share = min(width / picture.width, height / picture.height)
    size = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
    return picture.resize(size, Image.Resampling.BOX if share < 1 else Image.Resampling.NEAREST)


def shrunk(pixels_HWC: Pixels) -> Pixels:
    """Return the picture with neither side over SMALL_SIDE pixels: as it is, or made smaller."""
    is_small = max(pixels_HWC.shape[:2]) <= SMALL_SIDE
    return pixels_HWC if is_small else np.asarray(fit(pixels_HWC, width=SMALL_SIDE, height=SMALL_SIDE))


def to_image(pixels_HWC: Pixels) -> Image.Image:
    """Return uint8 pixels of one or three channels as an RGB image."""
    grey = pixels_HWC.shape[2] == 1
    return Image.fromarray(pixels_HWC[:, :, 0] if grey else pixels_HWC).convert("RGB")


def _box_of(tile: Tile) -> tuple[int, int]:
    """Return width and height of the box for a tile's pictures."""
    height, width = tile.pictures[-1].shape[:2]
    longest = max(width, height)
    if longest > MAX_SIDE:
        return max(1, width * MAX_SIDE // longest), max(1, height * MAX_SIDE // longest)
    factor = max(1, -(-MIN_SIDE // longest))
    return width * factor, height * factor


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Return the text on one line, cut with an ellipsis where it is too wide; of a path the end is kept."""
    text = " ".join(text.splitlines())
    if len(text) <= width and font.getlength(text) <= width:
        return text
    keep_end = "/" in text and " " not in text
    # From as many characters as there are pixels, so that a name of any length costs no more.
    for length in range(min(len(text), width) - 1, 0, -1):
        short = f"…{text[-length:]}" if keep_end else f"{text[:length]}…"
        if font.getlength(short) <= width:
            return short
    return ""


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
