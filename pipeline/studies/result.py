"""What a study leaves: result.json for machines, figure.png, and report.html for people.

publish(folder, study, outcome, runs=runs, scale=Scale.laptop, data=["CIFAR-10 at 8x8 pixels"])

{"version": 1, "name": "linear-limits", "claim": "...", "verdict": "holds", "statistic": "...", "value": 12.9,
 "interval": [11.8, 14.0], "seeds": 3, "seconds": 412.0, "checks": [...], ...}
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.shards.publish import publish_bytes, publish_json
from pipeline.studies.study import Outcome, Scale, Study, StudyRuns
from pipeline.studies.verdict import Check, verdict_of
from pipeline.track.plots import save_plot
from pipeline.track.report.markup import Section, Tile, code, notes, table, tiles
from pipeline.track.report.page import make_page
from pipeline.track.report.text import escaped
from pipeline.track.run_reading import finite

VERSION = 1
RESULT_FILE, FIGURE_FILE, REPORT_FILE = "result.json", "figure.png", "report.html"


def publish(
    folder: Path, study: Study, outcome: Outcome, *, runs: StudyRuns, scale: Scale, data: Sequence[str]
) -> dict[str, Any]:
    """Write the three files, result.json last, and return its content.

    Args:
        data: what was trained on, in words for the figure.
    """
    first = outcome.checks[0]
    result = {
        "version": VERSION,
        "name": study.name,
        "scale": scale.value,
        "claim": study.claim,
        "question": study.question,
        "data": list(data),
        "verdict": verdict_of(outcome.checks).value,
        "statistic": first.statistic,
        "value": finite(first.estimate.value),
        "interval": _interval(first),
        # Of seeds that only tuned the value knows nothing; of resampled runs there are more than seeds.
        "seeds": min(first.estimate.n, len({run.seed for run in runs.runs})),
        "seconds": round(sum(run.metric("wall_s") for run in runs.runs), 1),
        "runs": len(runs.runs),
        "checks": [_plain(check) for check in outcome.checks],
        "columns": list(outcome.columns),
        "rows": [list(row) for row in outcome.rows],
        "notes": list(outcome.notes),
        "command": command_of(study, scale),
        **{key: runs.runs[0].record.facts.get(key) for key in ("git_commit", "versions", "machine")},
    }
    picture = outcome.picture
    caption = f"{picture.caption} Data: {', '.join(data)}."
    save_plot(folder / FIGURE_FILE, picture.panels, title=picture.title, caption=caption)
    publish_bytes(folder / REPORT_FILE, page_of(study, result, (folder / FIGURE_FILE).read_bytes()).encode())
    publish_json(folder / RESULT_FILE, result)
    return result


def page_of(study: Study, result: dict[str, Any], figure_png: bytes) -> str:
    """Return the report: the claim, the figure, the numbers, the verdict and the rule that decided it."""
    image = base64.b64encode(figure_png).decode()
    checks = table(["part of the claim", "statistic", "value", "95 % interval", "wanted", "holds"], _check_rows(result))
    top = tiles(
        [
            Tile(name="verdict", value=result["verdict"]),
            Tile(name=result["statistic"], value=number_text(result["value"]), more=interval_text(result["interval"])),
            Tile(name="runs", value=str(result["runs"]), more=f"{result['seeds']} seeds, {result['seconds']:,.0f} s"),
        ]
    )
    figure = f'<figure><img alt="{escaped(study.title)}" src="data:image/png;base64,{image}"></figure>'
    rule = (
        "The claim is cut into parts, each with a bound that the study states before its runs. A part holds when its"
        " whole 95 % interval lies within the bound; all parts: the claim holds; some: it holds under conditions."
    )
    sections = [
        Section(anchor="figure", title="Figure", body=figure),
        Section(anchor="verdict", title="Verdict", body=notes([rule]) + checks),
        Section(
            anchor="numbers", title="Numbers", body=table(result["columns"], result["rows"]) + notes(result["notes"])
        ),
        Section(anchor="repeat", title="How to repeat it", body=code(result["command"])),
    ]
    lead = f"{study.claim} {study.question}"
    return make_page(title=study.title, lead=lead, top=top, sections=sections)


def command_of(study: Study, scale: Scale) -> str:
    """Return what to type to have the study again."""
    return f"make study NAME={study.name}" + ("" if scale is Scale.laptop else f' ARGS="scale={scale.value}"')


def _plain(check: Check) -> dict[str, Any]:
    return {
        "claim": check.claim,
        "statistic": check.statistic,
        "value": finite(check.estimate.value),
        "interval": _interval(check),
        "n": check.estimate.n,
        "wanted": check.bounds_text,
        "passes": check.passes,
    }


def _interval(check: Check) -> list[float] | None:
    ends = [check.estimate.low, check.estimate.high]
    return None if any(map(math.isnan, ends)) else ends


def _check_rows(result: dict[str, Any]) -> Sequence[Sequence[Any]]:
    return [
        [
            check["claim"],
            check["statistic"],
            check["value"],
            interval_text(check["interval"]),
            check["wanted"],
            "yes" if check["passes"] else "no",
        ]
        for check in result["checks"]
    ]


def number_text(value: float | None) -> str:
    """Return "9.197", or "none": some seed has no value."""
    return "none" if value is None else f"{value:.4g}"


def interval_text(interval: Sequence[float] | None) -> str:
    """Return "6.65 to 11.74", or what hinders an interval."""
    return (
        "none: it takes two seeds, and a value of each"
        if interval is None
        else f"{interval[0]:.4g} to {interval[1]:.4g}"
    )
