"""Strings of the data made safe for HTML, and numbers as people read them.

escaped("<b>cat</b>")                       # &lt;b&gt;cat&lt;/b&gt;
counted(1_281_167, "image")                 # 1,281,167 images
short(1_281_167)                            # 1.3M
"""

from __future__ import annotations

import html
import re
import unicodedata

# Overrides of the writing direction could make the page read otherwise than it is.
_DIRECTION_SIGNS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def escaped(text: str, *, limit: int = 300) -> str:
    """Return any text as HTML that shows it, cut to `limit` characters, fit for quoted attributes too."""
    text = " ".join(text[: 4 * limit].split())
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    shown = (REPLACEMENT if unicodedata.category(sign) in ("Cc", "Cs") else sign for sign in text)
    return html.escape(_DIRECTION_SIGNS.sub(REPLACEMENT, "".join(shown)), quote=True)


def counted(number: int, noun: str, nouns: str | None = None) -> str:
    """Return a count with its noun, in the plural where that is right."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def short(number: float) -> str:
    """Return a number of at most three digits and a letter, for axes."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}" if number / size < 100 else f"{number / size:.0f}{letter}"
    return f"{number:.3g}"


def as_bytes(number: int) -> str:
    """Return a size in bytes, kB, MB, GB or TB of a thousand each."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} B"


def percent(part: int, whole: int) -> str:
    """Return a share, never rounded to 0 % or 100 % where it is not."""
    if part in (0, whole) or not whole:
        return "0 %" if part == 0 else "100 %"
    value = 100 * part / whole
    if value < 0.01:
        return "under 0.01 %"
    if value > 99.9:
        return "over 99.9 %"
    return f"{value:.2g} %" if value < 10 else f"{value:.3g} %"
