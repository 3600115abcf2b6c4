"""The HTML file around sections: style and scripts inside, nothing loaded, nothing but our own script allowed to run.

    make_page(title="runs/0001", lead="...", top=tiles(...), sections=[...], curves=data.content)

The policy names the scripts and the style sheet by their checksums: text from a run could not run as a script even
where it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from pipeline.track.report.markup import Section
from pipeline.track.report.text import escaped

SCRIPTS = ("uPlot.iife.min.js", "charts.js", "page.js")
STYLES = ("uPlot.min.css", "palette.css", "report.css")
# uPlot's licence, which wants to stand where the code does.
LICENCE = "uPlot.LICENSE"
MAX_PAGE_BYTES = 5_000_000


def make_page(
    *, title: str, lead: str, top: str, sections: Sequence[Section], curves: dict[str, Any] | None = None
) -> str:
    """Return the page; `lead` is text, `top` and the sections' bodies are HTML, `curves` the content of ChartData."""
    links = "".join(f'<a href="#{section.anchor}">{escaped(section.title)}</a>' for section in sections)
    panels = "".join(
        f'<section id="{section.anchor}" aria-labelledby="{section.anchor}-title">'
        f'<h2 id="{section.anchor}-title">{escaped(section.title)}</h2>{section.body}</section>\n'
        for section in sections
    )
    data = "" if curves is None else f'<script type="application/json" id="curves">{script_json(curves)}</script>'
    style, scripts, licence = assets()
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none';"
        f" style-src {_checksum(style)}; script-src {' '.join(map(_checksum, scripts))}"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{escaped(title)}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{escaped(title)}</h1>
<p class="lead">{escaped(lead)}</p>
<nav aria-label="Sections">{links}</nav>
{top}
</header>
<main>
<noscript><p class="note warn">This file's script draws the curves, and your browser does not run it.</p></noscript>
{panels}</main>
<footer>Made by Tarmac. This page is one file: it loads nothing and sends nothing.</footer>
{data}
<!-- Charts: uPlot (https://github.com/leeoniya/uPlot).
{licence}-->
{"".join(f"<script>{script}</script>" for script in scripts)}
</body>
</html>
"""


def script_json(value: Any) -> str:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def assets() -> tuple[str, tuple[str, ...], str]:
    """Return the style sheet, the scripts and the licence of what is not ours."""
    folder = files("pipeline.track.report") / "assets"
    style = "\n".join((folder / name).read_text("utf-8") for name in STYLES)
    scripts = tuple((folder / name).read_text("utf-8") for name in SCRIPTS)
    return style, scripts, (folder / LICENCE).read_text("utf-8")


def _checksum(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
