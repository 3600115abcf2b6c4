"""What a run shows that is no number: pictures and tables, files in its folder that media.jsonl lists.

    media.jsonl                              {"step": 500, "kind": "picture", "name": "model/first_layer", "file": ...}
    media/model-first_layer-00000500.png
    media/val-per_class-00000500.json        {"columns": ["class", "accuracy"], "rows": [["cat", 0.41], ...]}

Names are `what/which`, as those of metrics are; the same name at several steps is one thing over time.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pipeline.shards.publish import publish_bytes
from pipeline.track.step_rows import StepRows, read_rows

log = logging.getLogger(__name__)

MEDIA_FILE = "media.jsonl"
MEDIA_FOLDER = "media"
NAME = re.compile(r"[a-z0-9_]+(/[A-Za-z0-9_.-]+)+")
# What MediaLog calls its files.
FILE_NAME = re.compile(r"[A-Za-z0-9_.-]+-\d{8,}\.(png|json)")
# What one file may have; a larger one is not read.
MAX_FILE_BYTES = 16 * 2**20


class Kind(Enum):
    picture = "picture"
    table = "table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Medium:
    """A picture (PNG) or a table (JSON) of a run, where it lies and what it shows."""

    step: int
    kind: Kind
    name: str
    path: Path
    caption: str

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Return a table's columns and rows.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no table.
        """
        try:
            content = json.loads(self.path.read_bytes())
            return [str(column) for column in content["columns"]], [list(row) for row in content["rows"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{self.path}: no table ({error!r})") from None


class MediaLog:
    """Writes pictures and tables on rank 0; opening it for a resumed run cuts what is after the checkpoint's step."""

    def __init__(self, folder: Path, *, resume_step: int) -> None:
        self._folder = folder
        self._rows = StepRows(folder / MEDIA_FILE, resume_step=resume_step)
        listed = {medium.path.name for medium in read_media(folder)}
        for path in (folder / MEDIA_FOLDER).glob("*"):
            # Nothing but what an earlier attempt made: the folder may be a link to one that holds more.
            if FILE_NAME.fullmatch(path.name) and path.name not in listed and not path.is_dir():
                path.unlink(missing_ok=True)

    def picture(self, *, step: int, name: str, png: bytes, caption: str) -> Medium | None:
        """Keep a picture; return it, or None where the disk has no room."""
        return self._keep(step, Kind.picture, name, png, caption)

    def table(
        self, *, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str
    ) -> Medium | None:
        """Keep a table of numbers, texts and None; return it, or None where the disk has no room."""
        content = json.dumps({"columns": list(columns), "rows": [list(row) for row in rows]})
        return self._keep(step, Kind.table, name, content.encode(), caption)

    def close(self) -> None:
        self._rows.close()

    def _keep(self, step: int, kind: Kind, name: str, content: bytes, caption: str) -> Medium | None:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name=}: `what/which` wanted, of letters, digits, _ . -")
        file = f"{name.replace('/', '-')}-{step:08d}.{'png' if kind is Kind.picture else 'json'}"
        path = self._folder / MEDIA_FOLDER / file
        try:
            path.parent.mkdir(exist_ok=True)
            publish_bytes(path, content)
        except OSError as error:
            log.warning("%s cannot be written (%s) and is left out", path, error)
            return None
        self._rows.append({"step": step, "kind": kind.value, "name": name, "file": file, "caption": caption})
        return Medium(step=step, kind=kind, name=name, path=path, caption=caption)


def read_media(folder: Path) -> list[Medium]:
    """Return a run's pictures and tables in the order in which they were made, each once.

    What is not of that form is left out; of several rows of one name and step the last one counts.
    """
    media = (medium_of(folder, row) for row in read_rows(folder / MEDIA_FILE))
    found = {(medium.step, medium.kind, medium.name): medium for medium in media if medium is not None}
    return list(found.values())


def medium_of(folder: Path, row: dict[str, Any]) -> Medium | None:
    """Return what a row of media.jsonl lists, or None for what is not of that form or not there."""
    try:
        kind, name, file, caption = Kind(row["kind"]), row["name"], row["file"], row["caption"]
        # A name alone: whoever wrote the file must not lead us out of the folder.
        is_sound = NAME.fullmatch(name) and Path(file).name == file and isinstance(caption, str)
    except (KeyError, TypeError, ValueError):
        return None
    if not is_sound:
        return None
    path = folder / MEDIA_FOLDER / file
    try:
        is_there = path.is_file() and not path.is_symlink() and path.stat().st_size <= MAX_FILE_BYTES
    except OSError:  # a name that is too long, or a file that is just being removed
        return None
    return Medium(step=row["step"], kind=kind, name=name, path=path, caption=caption) if is_there else None
