"""The command that makes a data set again, spelled from its provenance.

    command_of({"source": {"kind": "folder", "root": "my pets"}, "layout": {"kind": "packed"}}, num_rejected=2)
    # python -m data_prep source=folder 'source.root="my pets"' layout=packed seed=0 max_rejected=2 out=FOLDER

Every option is spelled out, so that a default that changes one day changes nothing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from data_prep.config import PREPARE_SCHEMAS

# What needs no quotes in an override, and is not taken for a number or null either.
_PLAIN_TEXT = re.compile(r"[A-Za-z_./~-][\w./:@+-]*", re.ASCII)
_WORDS = {"null", "true", "false", "none", "nan", "inf", "yes", "no", "on", "off"}


def command_of(provenance: Mapping[str, Any], *, num_rejected: int) -> str | None:
    """Return the shell command, or None where the provenance is not that of a preparation."""
    options = []
    for group in ("source", "layout"):
        choices = provenance.get(group)
        if not isinstance(choices, dict) or (option := _option_of(group, choices.get("kind"))) is None:
            return None
        options.append(f"{group}={option}")
        options += [f"{group}.{name}={_spelled(value)}" for name, value in choices.items() if name != "kind"]
    options.append(f"seed={_spelled(provenance.get('seed', 0))}")
    if provenance.get("classes") is not None:
        options.append(f"classes={_spelled(provenance['classes'])}")
    if num_rejected:
        options.append(f"max_rejected={num_rejected}")
    return shlex.join(["python", "-m", "data_prep", *options, "out=FOLDER"])


def _option_of(group: str, kind: Any) -> str | None:
    """Return the option of a group that provenance names, None where there is no such option."""
    return kind if isinstance(kind, str) and f"{group}/{kind}" in PREPARE_SCHEMAS else None


def _spelled(value: Any) -> str:
    """Return a plain value as an override has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_spelled, value))}]"
    if isinstance(value, str) and not (_PLAIN_TEXT.fullmatch(value) and value.lower() not in _WORDS):
        escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
        trailing = len(escaped) - len(escaped.rstrip("\\"))
        return f'"{escaped}{trailing * chr(92)}"'
    return str(value)
