"""The report of one run: report.html in its folder, one file that loads nothing.

    path = write_report(Path("runs/0001"))      # also while the run is at work

Curves, what bounded the speed, the batch size, pictures, tables, numbers, how to repeat it, its config.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipeline.shards.publish import publish_bytes
from pipeline.track.media import Kind
from pipeline.track.report.chart_data import Entry, chart_data
from pipeline.track.report.chart_panel import curves_panel
from pipeline.track.report.curves import charts_of, single_numbers
from pipeline.track.report.markup import Cell, Section, Tile, code, facts, note, table, tiles
from pipeline.track.report.media_panels import by_name, pictures_panel, table_body, tables_panel
from pipeline.track.report.page import MAX_PAGE_BYTES, make_page
from pipeline.track.report.run_facts import (
    COCKPIT,
    SHARES,
    axis_factors,
    batch_size,
    best,
    data_name,
    final,
    group,
    how_to_repeat,
    last_step,
    model_kind,
    number,
    quality_key,
)
from pipeline.track.report.text import duration_text, escaped, number_text, title_of, value_text
from pipeline.track.run_reading import RunRecord, read_run

log = logging.getLogger(__name__)

REPORT_FILE = "report.html"
TABLES_BYTES = 800_000
# Beside pictures: section frames and what is said of pictures that were left out.
SPARE_BYTES = 50_000


def write_report(folder: Path, *, out: Path | None = None) -> Path:
    """Write the report of a run and return its path, by default report.html in the run's folder.

    Raises:
        UserError: the folder holds no run.
    """
    path = out or folder / REPORT_FILE
    publish_bytes(path, report_of(read_run(folder)).encode())
    return path


def write_report_if_possible(folder: Path) -> None:
    """Write the report of a run that has ended; whatever hinders that is told, and never ends a run."""
    try:
        write_report(folder)
    except Exception as error:  # the run is done, and its record is whole
        log.warning('no report (%s: %s); once mended: make report ARGS="run=%s"', type(error).__name__, error, folder)


def report_of(run: RunRecord) -> str:
    """Return the page, below 5 MB."""
    data = chart_data(charts_of(run), entries=[Entry(name=run.name, factors=axis_factors(run))])
    before = [
        Section(anchor="curves-section", title="Curves", body=curves_panel(data)),
        Section(anchor="speed", title="What bounded the speed", body=_speed(run)),
        Section(anchor="batch", title="Batch size", body=_batch(run)),
    ]
    after = [
        Section(
            anchor="tables",
            title="Tables",
            body=tables_panel(run.media, room_bytes=TABLES_BYTES, without=[COCKPIT]),
        ),
        Section(anchor="numbers", title="Numbers", body=_numbers(run)),
        Section(anchor="repeat", title="How to repeat it", body=_repeat(run)),
        Section(anchor="config", title="Config", body=_config(run)),
    ]

    def page_with(pictures: str) -> str:
        middle = Section(anchor="pictures", title="Pictures", body=pictures)
        return make_page(
            title=run.name,
            lead=_lead(run),
            top=tiles(_tiles(run)) + ("" if run.is_finished else note(_state(run), is_warning=True)),
            sections=[section for section in (*before, middle, *after) if section.body],
            curves=data.content,
        )

    room_bytes = MAX_PAGE_BYTES - len(page_with("").encode()) - SPARE_BYTES
    return page_with(pictures_panel(run.media, room_bytes=room_bytes))


def _lead(run: RunRecord) -> str:
    steps, size = last_step(run), batch_size(run)
    epochs = axis_factors(run).get("epoch", 0.0) * steps
    parts = [f"{model_kind(run)} on {data_name(run)}", f"{steps:,} steps"]
    if epochs:
        parts[-1] += ", 1 epoch" if round(epochs, 3) == 1 else f", {number_text(round(epochs, 3))} epochs"
    if size is not None:
        parts.append(f"batch {number_text(size)}")
    if run.is_finished:
        ranks = number(run.summary, "world_size")
        parts.append("1 rank" if ranks == 1 else f"{number_text(ranks or 0)} ranks")
    return "; ".join(parts) + "."


def _state(run: RunRecord) -> str:
    return (
        f"Not finished: this page shows the run up to step {last_step(run):,}. It is at work, or was broken off;"
        " the same command with the same run_dir goes on."
    )


def _tiles(run: RunRecord) -> Iterator[Tile]:
    key = quality_key(run)
    for name in (key, "val/loss"):
        top = best(run, name)
        more = f"best {value_text(name, top[0])} at step {top[1]:,}" if top else ""
        title = title_of(name) if name == key else "Validation loss"
        yield Tile(name=title, value=value_text(name, final(run, name)), more=more)
    gap = final(run, "gap/top1_frac")
    if gap is not None:
        error = final(run, "gap/top1_error_frac")
        more = "" if error is None else f"standard error {value_text('gap/top1_error_frac', error)}"
        yield Tile(name="Generalisation gap", value=value_text("gap/top1_frac", gap), more=more)
    yield Tile(name="Speed", value=value_text("rate/images_per_s", final(run, "rate/images_per_s")))
    for key, name in (("wall_s", "Time"), ("parameters", "Parameters")):
        value = number(run.summary, key)
        if value is not None:
            yield Tile(name=name, value=value_text(key, value))


def _speed(run: RunRecord) -> str:
    bounded = run.summary.get("bounded_by")
    parts = [f'<p class="big">Bounded by {escaped(bounded, limit=1_000)}.</p>' if bounded else ""]
    shares = {name: final(run, f"rate/{name}_frac") for name in SHARES}
    if all(value is not None for value in shares.values()):
        parts.append(_shares_bar({name: value or 0.0 for name, value in shares.items()}))
    rows = []
    for key, name in (
        ("rate/images_per_s", "the run, evaluation and checkpoints left out"),
        ("rate/model_alone_images_per_s", "the model alone, on one batch again and again"),
        ("rate/loader_alone_images_per_s", "the loader alone"),
        ("rate/data_wait_frac", "share of the time that ranks waited for data"),
        ("rate/mfu_frac", "model FLOP utilisation"),
        ("checkpoint/pause_s", "pause of training for a checkpoint, mean"),
        ("checkpoint/write_s", "writing of a checkpoint behind training, mean"),
    ):
        value = final(run, key)
        if value is not None:
            rows.append((name, value_text(key, value)))
    if rows:
        parts.append(facts(rows))
    if not run.is_finished:
        parts.append("<p>What bounds the speed is measured at the end of a run.</p>")
    return "".join(parts)


def _shares_bar(shares: dict[str, float]) -> str:
    left, bars, keys = 0.0, [], []
    for colour, (name, share) in enumerate(shares.items()):
        told = f"{name} {100 * share:.1f} %"
        bars.append(
            f'<rect class="c{colour}" x="{100 * left:.3f}" width="{max(0.0, 100 * share):.3f}" height="10">'
            f"<title>{told}</title></rect>"
        )
        square = f'<svg viewBox="0 0 10 10" aria-hidden="true"><rect class="c{colour}" width="10" height="10"/></svg>'
        keys.append(f"<li>{square}{told}</li>")
        left += share
    return (
        '<svg class="shares" viewBox="0 0 100 10" preserveAspectRatio="none" role="img"'
        f' aria-label="Shares of the time">{"".join(bars)}</svg><ul class="key">{"".join(keys)}</ul>'
    )


def _batch(run: RunRecord) -> str:
    advice = run.summary.get("batch_advice")
    body = f'<p class="big">{escaped(advice, limit=2_000)}</p>' if advice else ""
    tables = by_name(run.media, Kind.table).get(COCKPIT)
    if tables:
        newest = tables[-1]
        told = f"Step {newest.step:,}" if newest.caption == advice else f"{newest.caption} (step {newest.step:,})"
        body += (table_body(newest) or "") + f'<p class="soft">{escaped(told)}</p>'
    return body


def _numbers(run: RunRecord) -> str:
    """Return what is in no chart: numbers of the summary, and metrics that were logged once."""
    rows: list[list[Any]] = []
    for key, value in run.summary.items():
        found = number(run.summary, key)
        if found is not None:
            rows.append([key, Cell(text=value_text(key, value), value=found), "at the end"])
    for key, (step, value) in single_numbers(run).items():
        if key not in run.summary:
            rows.append([key, Cell(text=value_text(key, value), value=value), f"step {step:,}"])
    return table(["metric", "value", "when"], rows) if rows else ""


def _repeat(run: RunRecord) -> str:
    fingerprint = group(run.facts, "fingerprint")
    wall_s, ranks = number(run.summary, "wall_s"), number(run.summary, "world_size")
    rows = [
        ("code", f"git commit {run.facts['git_commit']}" if run.facts.get("git_commit") else "no git commit known"),
        ("data", f"{data_name(run)}, manifest SHA-256 {fingerprint.get('data', 'unknown')}"),
        ("seed", str(run.config.get("seed", "unknown"))),
        ("versions", ", ".join(f"{name} {value}" for name, value in group(run.facts, "versions").items())),
        ("machine", ", ".join(str(value) for value in group(run.facts, "machine").values())),
        ("ranks", number_text(ranks) if ranks is not None else ""),
        ("started", str(run.facts.get("started", "unknown"))),
        ("went on", _resumes(run)),
        ("time", f"{duration_text(wall_s)} since it was last started" if wall_s is not None else ""),
        ("folder", str(run.folder)),
    ]
    return code(how_to_repeat(run)) + facts((name, value) for name, value in rows if value)


def _resumes(run: RunRecord) -> str:
    resumes = run.facts.get("resumes")
    if not isinstance(resumes, list):
        return ""
    told = [
        f"after step {resume.get('step')} ({resume.get('started')})" for resume in resumes if isinstance(resume, dict)
    ]
    times = "once" if len(told) == 1 else f"{len(told)} times"
    shown = told[:20] + (["..."] if len(told) > 20 else [])
    return f"{times}: {', '.join(shown)}" if told else ""


def _config(run: RunRecord) -> str:
    text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
    return f"<details><summary>All options</summary>{code(text)}</details>"
