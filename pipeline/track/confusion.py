"""Which classes are taken for which: the most frequent confusions as a table, and the matrix as a picture.

    pairs = most_frequent(labels, answers, samples, count=50)       # [Pair(label=3, answer=5, samples=212), ...]
    draw_confusion(report.confusion.numpy(), classes, title="Step 1,950").save("confusion.png")

A picture's row is a label and its columns are the answers, as shares of the label's samples: right ones in blue on the
diagonal, wrong ones in orange. The colour goes with the square root of the share, so that 1 % can be seen. Pillow draws
ten classes in 9 ms of a core, while training waits; matplotlib, which plots.py has, in 120 ms after 280 ms of imports.

Axes: K classes, [label, answer].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from pipeline.track.contact_sheet import BACKGROUND, FAINT, FRAME, INK, MARGIN, TITLE_SIZE

Counts = npt.NDArray[np.int64]

# Okabe and Ito's blue and vermilion, which colour-blind eyes tell apart too.
RIGHT, WRONG = (0, 114, 178), (213, 94, 0)
# Up to so many classes shares are written into the cells, and up to so many classes have their names beside them.
MAX_WRITTEN, MAX_NAMED = 20, 100
WRITTEN_CELL, NAMED_CELL = 36, 11
# Pixels that the matrix of more classes has a side; of still more classes it is not drawn.
PLAIN_SIDE = MAX_DRAWN = 1000
FONT_SIZE, SMALL_SIZE = 12, 10
MAX_NAME_LENGTH = 18
# Between the numbers beside a matrix without names.
TICK_STEPS = (10, 20, 50, 100, 200, 500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """So many samples of class `label` were taken for class `answer`."""

    label: int
    answer: int
    samples: int


def most_frequent(labels: Counts, answers: Counts, samples: Counts, *, count: int) -> list[Pair]:
    """Return the most frequent of pairs that are each listed once, right answers left out."""
    is_wrong = labels != answers
    labels, answers, samples = labels[is_wrong], answers[is_wrong], samples[is_wrong]
    order = np.lexsort((answers, labels, -samples))[:count]
    return [
        Pair(label=label, answer=answer, samples=number)
        for label, answer, number in zip(
            labels[order].tolist(), answers[order].tolist(), samples[order].tolist(), strict=True
        )
    ]


def draw_confusion(confusion_KK: Counts, classes: Sequence[str], *, title: str) -> Image.Image:
    """Return the matrix, of at most MAX_DRAWN classes, as a picture."""
    num_classes = len(confusion_KK)
    cell = WRITTEN_CELL if num_classes <= MAX_WRITTEN else NAMED_CELL
    if num_classes > MAX_NAMED:
        cell = PLAIN_SIDE // num_classes
    side = cell * num_classes
    shares_KK = confusion_KK / np.maximum(confusion_KK.sum(axis=1, keepdims=True), 1)
    matrix = Image.fromarray(_colours(shares_KK)).resize((side, side), Image.Resampling.NEAREST)
    is_named = num_classes <= MAX_NAMED
    font = ImageFont.load_default(FONT_SIZE if num_classes <= MAX_WRITTEN else SMALL_SIZE)
    names = [_short(name) for name in classes] if is_named else [f"{num_classes:,}"]
    names_width = round(max(font.getlength(name) for name in names)) + 8
    left, top = MARGIN + 20 + names_width, MARGIN + TITLE_SIZE + 34 + names_width
    heading = ImageFont.load_default(TITLE_SIZE)
    width = max(left + side, MARGIN + round(heading.getlength(title))) + MARGIN
    sheet = Image.new("RGB", (width, top + side + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, fill=INK, font=heading)
    sheet.paste(matrix, (left, top))
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline=FRAME)
    draw.text((left, MARGIN + TITLE_SIZE + 12), "answer", fill=FAINT, font=font)
    _write_upright(sheet, "label", (MARGIN + 6, top + round(font.getlength("label"))), font=font, fill=FAINT)
    places = range(num_classes) if is_named else range(0, num_classes, _tick_step(num_classes))
    for number in places:
        name, middle = names[number] if is_named else f"{number:,}", round((number + 0.5) * cell)
        draw.text((left - 6, top + middle), name, fill=INK, font=font, anchor="rm")
        _write_upright(sheet, name, (left + middle, top - 6), font=font, fill=INK)
    if num_classes <= MAX_WRITTEN:
        _write_shares(draw, shares_KK, (left, top), font=ImageFont.load_default(SMALL_SIZE))
    return sheet


def _colours(shares_KK: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Return a colour for each cell, uint8 (K, K, 3)."""
    levels_KK = np.rint(255 * np.sqrt(shares_KK)).astype(np.uint8)
    colours: npt.NDArray[np.uint8] = _shades(WRONG)[levels_KK]
    diagonal = np.arange(len(shares_KK))
    colours[diagonal, diagonal] = _shades(RIGHT)[levels_KK[diagonal, diagonal]]
    return colours


def _shades(full: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Return 256 colours from white to a full one, uint8 (256, 3)."""
    strengths = np.linspace(0, 1, 256)[:, None]
    return np.rint(255 + (np.array(full) - 255) * strengths).astype(np.uint8)


def _write_shares(
    draw: ImageDraw.ImageDraw,
    shares_KK: npt.NDArray[np.float64],
    corner: tuple[int, int],
    *,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Write percentages into their cells, those that round to 0 left out."""
    for label, answer in zip(*np.nonzero(shares_KK >= 0.005), strict=True):
        share = float(shares_KK[label, answer])
        x, y = corner[0] + (answer + 0.5) * WRITTEN_CELL, corner[1] + (label + 0.5) * WRITTEN_CELL
        ink = BACKGROUND if share > 0.35 else INK
        draw.text((x, y), f"{100 * share:.0f}", fill=ink, font=font, anchor="mm")


def _write_upright(
    sheet: Image.Image,
    text: str,
    foot: tuple[int, int],
    *,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    fill: tuple[int, int, int],
) -> None:
    """Write a text upwards from `foot`, the middle of its beginning."""
    _, above, right, below = font.getbbox(text)
    mask = Image.new("L", (max(1, round(right)), max(1, round(below))))
    ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=font)
    mask = mask.rotate(90, expand=True)
    middle = round((above + below) / 2)
    sheet.paste(fill, (foot[0] - middle, foot[1] - mask.height), mask)


def _tick_step(num_classes: int) -> int:
    """Return after how many classes there is a number, for at most about twenty."""
    return next((step for step in TICK_STEPS if num_classes <= 20 * step), TICK_STEPS[-1])


def _short(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"
