"""How values of strangers are checked for being text, and shown in errors.

shown("a" * 1000)       # "'aaaa...", at most 80 characters on one line, ASCII alone
is_utf8("\\ud800")      # False: half a surrogate pair, which JSON can spell and UTF-8 cannot store
"""

from __future__ import annotations

from typing import Any

_MAX_SHOWN = 80


def shown(value: Any) -> str:
    """Return a value for an error."""
    spelling = ascii(value)
    return spelling if len(spelling) <= _MAX_SHOWN else spelling[: _MAX_SHOWN - 3] + "..."


def is_utf8(text: str) -> bool:
    """Tell whether a text can be stored as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
