"""The pages as text: nothing from a run can act in them, they stay below 5 MB, and broken runs have pages too."""

from __future__ import annotations

import json
import logging
import math
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.track.metric_log import MetricLog
from pipeline.track.report.comparison import groups_of
from pipeline.track.report.comparison_page import comparison_of
from pipeline.track.report.page import MAX_PAGE_BYTES
from pipeline.track.report.run_page import report_of, write_report, write_report_if_possible
from pipeline.track.report.text import bytes_text, duration_text, escaped, number_text, title_of, value_text
from pipeline.track.run_reading import RunRecord, read_run
from report_runs import EVIL, add_media, png, write_run

# Beyond a float's range, and deeper than Python reads.
HUGE = b'{"step": 1, "a/b": N, "wall_s": N}\n{"step": N, "a/b": 1}\n'.replace(b"N", b"1" + b"0" * 400)
DEEP = b"[" * 100_000


class Elements(HTMLParser):
    """What elements a page has, with their attributes, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data


def pages_of(run: RunRecord) -> list[str]:
    return [report_of(run), comparison_of([run], groups_of([run]))]


def test_names_captions_options_and_classes_are_text_and_nothing_else(tmp_path: Path) -> None:
    plain = add_media(write_run(tmp_path / "plain"))
    run = write_run(
        tmp_path / "<img src=x onerror=alert(3)>",
        rows={step: {f"train/{EVIL}": 1.0, f"a/b/{EVIL}": 2.0, EVIL: 3.0, "train/loss": 1.0} for step in (1, 2)},
        options={"data": {"path": EVIL}, EVIL: EVIL, "model": {"kind": EVIL}},
        summary={"bounded_by": EVIL, "batch_advice": EVIL, "data": {"name": EVIL}, EVIL: 1.0},
    )
    facts = json.loads((run.folder / "run.json").read_text())
    facts |= {"git_commit": EVIL, "machine": {EVIL: EVIL}, "versions": {EVIL: EVIL}, "resumes": [{"step": EVIL}]}
    facts["command"] = ["/x/pipeline/train.py", EVIL]
    (run.folder / "run.json").write_text(json.dumps(facts))
    log = MetricLog(run.folder, resume_step=2)
    log.picture(step=2, name="val/worst", png=png(1), caption=EVIL)
    log.table(step=2, name="val/per_class", columns=["class", EVIL], rows=[[EVIL, 1], [None, 2]], caption=EVIL)
    log.close()
    for page, harmless in zip(pages_of(read_run(run.folder)), pages_of(plain), strict=True):
        elements = Elements(page)
        assert len(elements.scripts) == len(Elements(harmless).scripts) == 4
        assert EVIL in elements.scripts[0].encode().decode("unicode_escape")
        for tag, attributes in elements.found:
            assert tag != "img" or str(attributes["src"]).startswith("data:image/png;base64,")
            assert not [name for name in attributes if name.startswith("on")]
        assert "\u202e" not in page


def test_a_page_names_nothing_that_a_browser_would_load(tmp_path: Path) -> None:
    for page in pages_of(add_media(write_run(tmp_path / "run"))):
        for tag, attributes in Elements(page).found:
            for name in ("src", "href", "srcset", "action", "poster", "data"):
                assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
            assert "style" not in attributes  # the policy forbids it
        policy = next(attributes["content"] for tag, attributes in Elements(page).found if "http-equiv" in attributes)
        assert str(policy).startswith("default-src 'none'; img-src data:;")
        assert "unsafe" not in str(policy)
        assert "@import" not in page
        assert "url(" not in page


def test_a_long_run_with_many_pictures_stays_below_the_limit_and_shows_the_newest_of_each(tmp_path: Path) -> None:
    rows = {
        step: {
            **{f"train/m{number}": (step * 37 % 1009) / 7 for number in range(60)},
            **{f"layers/weight_norm/l{depth}": step / (depth + 3) for depth in range(30)},
        }
        for step in range(1, 1_001)
    }
    run = write_run(tmp_path / "run", rows=rows)
    log = MetricLog(run.folder, resume_step=1_000)
    for step in (1, 2, 3):
        for name in ("a/x", "b/x", "c/x"):
            log.picture(step=step, name=name, png=png(step, side=420), caption=f"{name} of {step}")
    log.picture(step=4, name="d/large", png=png(4, side=1_300), caption="larger than a page")
    log.close()
    page = report_of(read_run(run.folder))
    assert 3_500_000 < len(page.encode()) <= MAX_PAGE_BYTES
    for name in ("a/x", "b/x", "c/x"):
        assert f'alt="{name} of 3"' in page
        assert f"{name} of step 1 has no room here" in page
    assert "d/large of step 4 has no room here" in page
    assert str(run.folder / "media" / "d-large-00000004.png") in page


def test_what_is_not_what_it_says_it_is_is_left_out_by_name(tmp_path: Path) -> None:
    run = add_media(write_run(tmp_path / "run"))
    for content in (b"neither", DEEP, b'{"columns": 1, "rows": 2}'):
        for medium in run.media:
            medium.path.write_bytes(content)
        page = report_of(run)
        assert "val/worst of step 400 is no picture" in page
        assert "val/per_class of step 400 is no table" in page


def test_a_table_shows_a_dash_for_what_is_no_finite_number(tmp_path: Path) -> None:
    run = add_media(write_run(tmp_path / "run"))
    rows = [["a", math.nan, 10**400], ["b", math.inf, 3]]
    for medium in run.media:
        if medium.name == "val/per_class":
            medium.path.write_text(json.dumps({"columns": ["class", "top1_frac", "images"], "rows": rows}))
    page = report_of(run)
    dash = '<td class="n" data-value="">–</td>'
    assert f"<tr><td>a</td>{dash}{dash}</tr>" in page
    assert f'<tr><td>b</td>{dash}<td class="n" data-value="3">3 images</td></tr>' in page


@pytest.mark.parametrize("name", ["run.json", "summary.json", "metrics.jsonl", "media.jsonl"])
def test_a_run_with_a_file_torn_or_missing_has_a_page(name: str, tmp_path: Path) -> None:
    whole = add_media(write_run(tmp_path / "run"))
    path = whole.folder / name
    foreign = b'{"step": 1, "versions": 3, "data": 4, "command": "x"}\n'
    for content in (path.read_bytes()[:40], b"[1, 2]\n", foreign, HUGE, DEEP):
        path.write_bytes(content)
        for page in pages_of(read_run(whole.folder)):
            assert "How to repeat it" in page or "Differences" in page
    path.unlink()
    assert len(pages_of(read_run(whole.folder))) == 2


def test_a_run_at_work_has_a_page_that_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", is_finished=False)
    page = report_of(run)
    assert "Not finished: this page shows the run up to step 400" in page
    empty = write_run(tmp_path / "empty", rows={}, is_finished=False)
    assert "No curves" in report_of(empty)
    assert "1 of them not finished" in comparison_of([run], groups_of([run]))


def test_what_is_told_of_repeating_is_the_command_that_was_typed_but_for_its_folder(tmp_path: Path) -> None:
    run = write_run(tmp_path / "0001; b", summary={"world_size": 2})
    hard = "data.path='/a b/c'"
    facts = {**run.facts, "command": ["/x/pipeline/train.py", "seed=7", hard, "run_dir=there", "resume=true"]}
    (run.folder / "run.json").write_text(json.dumps(facts))
    page = report_of(read_run(run.folder))
    told = page.partition('<pre tabindex="0">')[2].partition("</pre>")[0]
    checkout, command = told.replace("&#x27;", "'").replace("&quot;", '"').splitlines()
    assert checkout == f"git checkout {facts['git_commit']}"
    assert shlex.split(command) == [
        *("torchrun", "--standalone", "--nproc-per-node", "2", "-m", "pipeline.train"),
        *("seed=7", hard, "run_dir=runs/0001; b-again"),
    ]


def test_speed_batch_advice_and_resumes_are_told(tmp_path: Path) -> None:
    advice = "The noise scale is about 1,800 images."
    run = add_media(write_run(tmp_path / "run", summary={"batch_advice": advice}))
    resumes = [{"step": 120, "started": "2026-01-02T05:00:00+00:00"}, {"step": 240, "started": "later"}]
    (run.folder / "run.json").write_text(json.dumps({**run.facts, "resumes": resumes}))
    page = report_of(read_run(run.folder))
    assert f"Bounded by {run.summary['bounded_by']}." in page
    assert "compute 70.0 %" in page
    assert advice in page
    assert "2 times: after step 120 (2026-01-02T05:00:00+00:00), after step 240 (later)" in page
    assert "manifest SHA-256 298c55e9" in page


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    run = add_media(write_run(tmp_path / "run"))
    first = write_report(run.folder).read_bytes()
    assert write_report(run.folder).read_bytes() == first


def test_a_report_that_cannot_be_written_is_told_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(tmp_path / "run")
    (run.folder / "report.html").mkdir()
    with caplog.at_level(logging.WARNING):
        write_report_if_possible(run.folder)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f'make report ARGS="run={run.folder}"' in caplog.text
    assert not list(run.folder.glob(".*part"))


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (value_text("val/top1_frac", 0.425), "42.50 %"),
        (value_text("rate/images_per_s", 12_345.6), "12,350 images/s"),
        (value_text("rate/data_bytes_per_s", 2.88e7), "28.8 MB/s"),
        (value_text("mem/rss_bytes", 757_444_608), "757 MB"),
        (value_text("val/loss", None), "–"),
        (value_text("val/loss", float("nan")), "–"),
        (value_text("steps", 97), "97"),
        (number_text(1_234_567), "1,234,567"),
        (number_text(1.62900), "1.629"),
        (number_text(0.0), "0"),
        (number_text(-0.00123456), "-0.001235"),
        (number_text(7.866e-8), "7.866e-08"),
        (bytes_text(12), "12 B"),
        (duration_text(0.0072), "7.2 ms"),
        (duration_text(75.5), "75.5 s"),
        (duration_text(3_599.7), "1 h 00 min"),
        (duration_text(250), "4 min 10 s"),
        (title_of("grad/noise_scale_images"), "Noise scale"),
        (title_of("rate/images_per_s"), "Images per second"),
        (title_of("val/map_frac"), "Mean average precision"),
        (escaped("a" * 400, limit=5), "aaaa…"),
        (escaped("\x00\x1b[0m"), "\ufffd\ufffd[0m"),
    ],
)
def test_numbers_are_shown_with_their_unit(shown: str, text: str) -> None:
    assert shown == text
