"""Reports and comparisons in a real browser: drawn, switched, zoomed, on a phone, in the dark, without a network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from browser import chromium, ink_frac, scrolls_sideways, visiting
from pipeline.track.metric_log import MetricLog
from pipeline.track.report.comparison_page import write_comparison
from pipeline.track.report.markup import Section, table
from pipeline.track.report.page import make_page
from pipeline.track.report.run_page import write_report
from report_runs import EVIL, add_media, png, write_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.slow
PIXELS = "canvas => canvas.toDataURL()"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the report of a run with everything in it."""
    folder = tmp_path_factory.mktemp("report") / "0001"
    run = write_run(folder, summary={"batch_advice": "A batch up to 1,800 images would take fewer steps."})
    return write_report(add_media(run).folder).as_uri()


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the comparison of two configurations, one of them with three seeds."""
    root = tmp_path_factory.mktemp("comparison")
    runs = [write_run(root / f"000{seed}", seed=seed) for seed in range(3)] + [write_run(root / "0003", rate=0.4)]
    write_comparison([run.folder for run in runs], out=root / "compare.html")
    return (root / "compare.html").as_uri()


def frame(page: Page, title: str) -> Locator:
    """Return the chart of a title, drawn."""
    chart = page.locator(
        "figure.chart", has=page.locator("figcaption > span:first-child", has_text=re.compile(f"^{title}"))
    ).first
    chart.scroll_into_view_if_needed()
    chart.locator("canvas").wait_for()
    return chart


def drawn(chart: Locator) -> str:
    return str(chart.locator("canvas").evaluate(PIXELS))


def legend(chart: Locator) -> list[str]:
    return [text for text in chart.locator(".legend button").all_inner_texts() if text]


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (375, False)])
@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_every_chart_is_drawn_and_the_page_fits_and_asks_nobody(
    kind: str, width: int, dark: bool, browser: Browser, request: pytest.FixtureRequest
) -> None:
    with visiting(browser, request.getfixturevalue(kind), width=width, dark=dark) as visit:
        page = visit.page
        for closed in page.locator("details").all():
            closed.evaluate("details => { details.open = true; }")
        charts = page.locator("figure.chart").all()
        assert len(charts) > 8
        for chart in charts:
            chart.scroll_into_view_if_needed()
            chart.locator("canvas").wait_for()
            assert ink_frac(chart.locator("canvas")) > 0.005
        assert not scrolls_sideways(page)
        pictures = page.locator("img:not([hidden])")
        assert all(pictures.evaluate_all("images => images.map(image => image.naturalWidth > 0)"))
    assert visit.errors == []
    assert [address for address in visit.requests if not address.startswith(("data:", "file:"))] == []
    assert len([address for address in visit.requests if address.startswith("file:")]) == 1


def test_switches_change_what_is_drawn_and_change_it_back(report: str, browser: Browser) -> None:
    with visiting(browser, report) as visit:
        page = visit.page
        chart = frame(page, "Loss")
        plain = drawn(chart)
        seen = {plain}
        for name in ("Log values", "Log axis"):
            page.get_by_label(name).check()
            seen.add(drawn(chart))
            page.get_by_label(name).uncheck()
            assert drawn(chart) == plain
        page.get_by_label("Smoothing").fill("60")
        seen.add(drawn(chart))
        page.get_by_label("Smoothing").fill("0")
        for axis in ("epoch", "images"):
            page.get_by_label("Across").select_option(label=axis)
            seen.add(drawn(chart))
        page.get_by_label("Across").select_option(label="step")
        assert drawn(chart) == plain
        chart.get_by_role("button", name="train", exact=True).click()
        seen.add(drawn(chart))
        assert len(seen) == 7, "each switch draws something else"
        page.get_by_label("Log values").check()
        dead = frame(page, "Dead units")
        assert ink_frac(dead.locator("canvas")) > 0.005, "beside a layer that is 0 throughout, and has no logarithm"
    assert visit.errors == []


def test_the_values_under_the_pointer_are_those_that_were_logged(report: str, browser: Browser) -> None:
    with visiting(browser, report) as visit:
        chart = frame(visit.page, "Learning rate")
        assert chart.locator(".legend output").inner_text() == "0.1", "the last value where no pointer is"
        chart = frame(visit.page, "Images per second")
        over = chart.locator(".u-over")
        box = over.bounding_box()
        assert box is not None
        over.hover(position={"x": box["width"] - 1, "y": 40})
        assert chart.locator("figcaption .at").inner_text() == "step 400"
        assert chart.locator(".legend output").inner_text() == "9.4 k"
        over.hover(position={"x": 1, "y": 40})
        assert chart.locator("figcaption .at").inner_text() == "step 10"
        assert chart.locator(".legend output").inner_text() == "9.01 k"


def test_a_drag_zooms_all_charts_and_a_double_click_shows_the_whole(report: str, browser: Browser) -> None:
    with visiting(browser, report) as visit:
        page = visit.page
        loss, accuracy = frame(page, "Loss"), frame(page, "Accuracy")
        before = drawn(loss), drawn(accuracy)
        box = loss.locator(".u-over").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 60, steps=4)
        page.mouse.up()
        low, high = (float(page.get_by_label(name, exact=True).input_value()) for name in ("From", "to"))
        assert 90 < low < 125 < 195 < high < 215
        assert drawn(loss) != before[0]
        assert drawn(accuracy) != before[1]
        loss.locator(".u-over").dblclick()
        page.mouse.move(0, 0)
        assert (drawn(loss), drawn(accuracy)) == before
        page.get_by_label("From", exact=True).fill("100")
        page.get_by_label("From", exact=True).press("Enter")
        assert drawn(loss) != before[0], "typed ends zoom, too"
        page.get_by_role("button", name="Whole").click()
        assert drawn(loss) == before[0]
    assert visit.errors == []


def test_layers_are_one_chart_a_quantity_with_a_button_a_layer(report: str, browser: Browser) -> None:
    with visiting(browser, report) as visit:
        chart = frame(visit.page, "Norm of weights")
        assert legend(chart) == ["input", "blocks.2", "blocks.10", "head"]


def test_a_slider_leafs_through_a_picture_and_tables_sort(report: str, browser: Browser) -> None:
    with visiting(browser, report) as visit:
        page = visit.page
        figure = page.locator("figure.picture", has_text="model/first_layer")
        shown = figure.locator("img:not([hidden])")
        assert shown.get_attribute("alt") == "units of largest norm 400"
        figure.locator("input").fill("0")
        assert shown.get_attribute("alt") == "units of largest norm 100"
        table = page.locator("table", has_text="horse")
        head = table.get_by_role("button", name="top1_frac")
        first = table.locator("tbody tr td:first-child")
        head.click()
        assert first.all_inner_texts() == ["horse", "cat", "frog", "dog"]
        head.click()
        assert first.all_inner_texts() == ["frog", "cat", "horse", "dog"], "without a value: last, either way"


def test_on_a_phone_a_picture_is_as_wide_as_the_page_and_a_tap_shows_it_whole(browser: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    log = MetricLog(run.folder, resume_step=400)
    log.picture(step=400, name="val/worst", png=png(1, side=700), caption="wide")
    log.close()
    with visiting(browser, write_report(run.folder).as_uri(), width=375) as visit:
        picture = visit.page.locator("figure.picture img")
        assert picture.evaluate("image => image.clientWidth") < 375
        picture.click()
        assert picture.evaluate("image => image.clientWidth") == 700
        assert not scrolls_sideways(visit.page), "the picture scrolls in its own frame"
        picture.click()
        assert picture.evaluate("image => image.clientWidth") < 375


def test_seeds_are_shown_by_their_mean_or_each_and_runs_can_be_taken_out(comparison: str, browser: Browser) -> None:
    with visiting(browser, comparison) as visit:
        page = visit.page
        chart = frame(page, "Loss")
        seeds = "rate=0.1, 3 seeds"
        assert legend(chart) == [f"{seeds}, train", f"{seeds}, val", "0003: rate=0.4, train", "0003: rate=0.4, val"]
        page.locator("#view").select_option(label="each run")
        runs = ["0000", "0001", "0002", "0003: rate=0.4"]
        assert legend(chart) == [f"{run}, {split}" for run in runs for split in ("train", "val")]
        page.get_by_role("group", name="Runs").get_by_role("button", name=seeds).click()
        assert legend(chart) == ["0003: rate=0.4, train", "0003: rate=0.4, val"]
    assert visit.errors == []


def test_a_page_without_curves_sorts_its_tables(browser: Browser, tmp_path: Path) -> None:
    body = table(["name", "number"], [["a", 2], ["b", 3], ["c", 1]])
    page = make_page(title="Numbers", lead="", top="", sections=[Section(anchor="n", title="Numbers", body=body)])
    (tmp_path / "page.html").write_text(page)
    with visiting(browser, (tmp_path / "page.html").as_uri()) as visit:
        visit.page.get_by_role("button", name="number").click()
        assert visit.page.locator("tbody td:first-child").all_inner_texts() == ["b", "a", "c"]
    assert visit.errors == []


def test_text_of_a_run_cannot_act(browser: Browser, tmp_path: Path) -> None:
    rows = {step: {f"train/{EVIL}": step + 1.0, "train/loss": 1.0} for step in (1, 2, 3)}
    run = write_run(tmp_path / "evil", rows=rows, options={"model": {"kind": EVIL}}, summary={"bounded_by": EVIL})
    run = add_media(run, steps=(3,), caption=EVIL)
    alerts: list[str] = []
    with visiting(browser, "about:blank") as visit:
        visit.page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
        visit.page.goto(write_report(run.folder).as_uri())
        assert ink_frac(frame(visit.page, "Loss").locator("canvas")) > 0.005
        # Were it not escaped, the policy would still stop it.
        with visit.page.expect_console_message(lambda message: "inline event handler" in message.text):
            visit.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=alert(3)>')")
    assert alerts == []
    assert any("Content Security Policy" in error for error in visit.errors)
