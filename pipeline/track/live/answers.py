"""What the live page's server answers: a function of the runs and a request's path and query.

    answer(runs, "/api/runs?known=")                        # {"version": "9f31...", "runs": [...]}
    answer(runs, "/api/run?id=runs/0001&cursor=&about=")    # {"series": {"train/loss": [[50, 100], [1.9, 1.7]]}, ...}
    answer(runs, "/media?id=runs/0001&file=val-worst-00000500.png")

Only the page's own files, and of run folders only what was found there and media.jsonl lists, can be asked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pipeline.shards.errors import UserError
from pipeline.track.live.overview import RunIndex, differing, stamp_of
from pipeline.track.live.updates import read_update
from pipeline.track.media import MEDIA_FILE, Kind, Medium, read_media
from pipeline.track.metric_log import METRICS_FILE
from pipeline.track.report.curves import EPOCH, GROUP_TITLES, LAYERS, QUALITY, QUALITY_ORDER, SPLITS
from pipeline.track.report.run_facts import COCKPIT, QUALITY_KEYS, SHARES
from pipeline.track.report.text import UNITS, title_of
from pipeline.track.run_reading import CONFIG_FILE, RUN_FILE, SUMMARY_FILE, flat, read_config, read_facts, read_summary

PAGE_FOLDER = Path(__file__).with_name("page")
SHARED_FOLDER = Path(__file__).parent.parent / "report" / "assets"
# Of the report, too.
SHARED_FILES = ("uPlot.iife.min.js", "uPlot.min.css", "palette.css")
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
# Files from which everything but the rows of a run is read.
ABOUT_FILES = (CONFIG_FILE, RUN_FILE, SUMMARY_FILE, MEDIA_FILE)
LINE_FIELDS = ("id", "name", "step", "total_steps", "last")
# What metrics, their groups and units are called, one list for the page and for reports.
NAMES = {
    "SPLITS": SPLITS,
    "UNITS": UNITS,
    "QUALITY": QUALITY,
    "QUALITY_ORDER": QUALITY_ORDER,
    "QUALITY_KEYS": QUALITY_KEYS,
    "GROUP_TITLES": GROUP_TITLES,
    "LAYERS": LAYERS,
    "EPOCH": EPOCH,
    "SHARES": SHARES,
    "COCKPIT": COCKPIT,
}
# A picture's address changes when it is drawn again.
FOREVER = "private, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Status, type, content and how long a browser may keep it."""

    content: bytes
    content_type: str
    status: int = 200
    keep: str = "no-store"


NOT_FOUND = Answer(content=b"not found\n", content_type="text/plain", status=404)


def answer(runs: RunIndex, address: str) -> Answer:
    """Return the answer to a request; the address is path and query as they were asked."""
    parts = urlsplit(address)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    path = "/page.html" if parts.path == "/" else parts.path
    if path in page_files():
        return page_files()[path]
    asked = ANSWERS.get(path)
    return asked(runs, query) if asked else NOT_FOUND


@cache
def page_files() -> dict[str, Answer]:
    """Return the files that make up the page, by path."""
    own = (path for path in PAGE_FOLDER.iterdir() if path.suffix in TYPES)
    contents = {path.name: path.read_bytes() for path in (*own, *(SHARED_FOLDER / name for name in SHARED_FILES))}
    # Made of NAMES, so that what a report and the page call a thing cannot differ.
    lines = (f"export const {name} = {json.dumps(what)};\n" for name, what in NAMES.items())
    contents["names.js"] = "".join(lines).encode()
    return {
        f"/{name}": Answer(content=content, content_type=f"{TYPES[Path(name).suffix]}; charset=utf-8")
        for name, content in contents.items()
    }


def _runs(runs: RunIndex, query: dict[str, str]) -> Answer:
    """All runs in a line each, if they are not as they were when the page asked last."""
    overviews = runs.overviews()
    differences = differing(overviews)
    lines = []
    for run in overviews:
        fields = {name: getattr(run, name) for name in LINE_FIELDS}
        lines.append({**fields, "state": run.state.value, "differs": _finite(differences[run.id])})
    version = _short_hash(lines)
    return _json({"version": version} if version == query.get("known") else {"version": version, "runs": lines})


def _run(runs: RunIndex, query: dict[str, str]) -> Answer:
    """What one run has since the page asked last: rows after `cursor`, and the rest where it is not `about`."""
    folder = runs.folder_of(query.get("id", ""))
    if folder is None:
        return _json({"is_gone": True})
    about = _about_stamp(folder)
    update = read_update(folder / METRICS_FILE, cursor=query.get("cursor", ""))
    content: dict[str, Any] = {
        "cursor": update.cursor,
        "is_whole": update.is_whole,
        "series": {key: [series.steps, series.values] for key, series in update.series.items()},
        "titles": {name: title_of(name) for key in update.series for name in {key, _chart_of(key)}},
    }
    if about != query.get("about"):
        try:
            config = dict(flat(read_config(folder)))
        except UserError:
            return _json({"is_gone": True})
        content |= {
            "about": about,
            "config": _finite(config),
            "facts": _finite(read_facts(folder)),
            "summary": _finite(read_summary(folder)),
            "media": [_listed(medium) for medium in read_media(folder)],
        }
    return _json(content)


def _medium(runs: RunIndex, query: dict[str, str]) -> Answer:
    """A picture, or a table as it is stored."""
    folder = runs.folder_of(query.get("id", ""))
    media = read_media(folder) if folder is not None else []
    medium = next((medium for medium in media if medium.path.name == query.get("file")), None)
    try:
        if medium is None:
            return NOT_FOUND
        if medium.kind is Kind.table:
            columns, rows = medium.table()
            return dataclasses.replace(_json({"columns": _finite(columns), "rows": _finite(rows)}), keep=FOREVER)
        return Answer(content=medium.path.read_bytes(), content_type="image/png", keep=FOREVER)
    except (OSError, ValueError):
        return NOT_FOUND


ANSWERS: dict[str, Callable[[RunIndex, dict[str, str]], Answer]] = {
    "/api/runs": _runs,
    "/api/run": _run,
    "/media": _medium,
}


def _listed(medium: Medium) -> dict[str, Any]:
    stamp = stamp_of(medium.path)
    return {
        "step": medium.step,
        "kind": medium.kind.value,
        "name": medium.name,
        "file": medium.path.name,
        "caption": medium.caption,
        "made": str(stamp.changed_ns if stamp else 0),
    }


def _chart_of(key: str) -> str:
    """Return the name of the chart of a metric that is one of several: of `layers/weight_norm/head` the quantity's."""
    return "/".join(key.split("/")[:2])


def _about_stamp(folder: Path) -> str:
    return _short_hash([stamp_of(folder / name) for name in ABOUT_FILES])


def _short_hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()[:16]


def _json(content: Any) -> Answer:
    return Answer(content=json.dumps(content, default=str).encode(), content_type="application/json")


def _finite(content: Any) -> Any:
    """Return plain containers with None for numbers that are not finite, for which JSON has no word."""
    if isinstance(content, float):
        return content if abs(content) < float("inf") else None
    if isinstance(content, dict):
        return {str(key): _finite(value) for key, value in content.items()}
    return [_finite(value) for value in content] if isinstance(content, list) else content
