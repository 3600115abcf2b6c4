"""The live page in a real browser: what it draws, while runs are written, killed, resumed and deleted."""

from __future__ import annotations

import operator
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from browser import Visit, chromium, ink_frac, scrolls_sideways, visiting
from dashboard_runs import ADVICE, LAYERS, live_page, row_of, start_run, write_run
from forked import exit_codes, fork_ranks, kill_ranks, wait_for_step, wait_long
from pipeline.shards.manifest import DataSet
from pipeline.track.metric_log import MetricLog
from pipeline.track.report.curves import charts_of, group_title
from pipeline.track.run_reading import read_run
from pipeline.training.checkpoint import stored_checkpoints
from runs import SMALL
from waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=\"document.title='taken'\"></script><script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs that differ in their rate; the second was started last."""
    root = tmp_path / "runs"
    write_run(root / "0001", steps=range(5, 101, 5), rate=0.1)
    write_run(root / "0002", steps=range(5, 81, 5), rate=0.2)
    return root


def seen(visit: Visit) -> None:
    """What must hold of every page: it told no error, asked nobody else, and fits its window."""
    assert visit.errors == []
    assert visit.foreign == []
    assert not scrolls_sideways(visit.page)


def chart(visit: Visit, key: str) -> Locator:
    return visit.page.locator(f'.chart[data-key="{key}"]')


def drawn(visit: Visit, key: str) -> list[list[float | None]] | None:
    """Return what a chart draws: its steps, then each curve; None before it is drawn."""
    found: list[list[float | None]] | None = visit.page.evaluate(
        "key => document.querySelector(`.chart[data-key='${key}']`)?.chart.plot?.data ?? null", key
    )
    return found


def curve_names(visit: Visit, key: str) -> list[str]:
    names: list[str] = visit.page.evaluate(
        "key => document.querySelector(`.chart[data-key='${key}']`)?.chart.drawn?.map((line) => line.label) ?? []", key
    )
    return names


def choose(visit: Visit, *names: str) -> None:
    visit.page.get_by_role("button", name="none").click()
    for name in names:
        visit.page.locator("#runs li").filter(has_text=name).get_by_role("checkbox").check()


def open_tab(visit: Visit, title: str) -> None:
    visit.page.get_by_role("navigation").get_by_role("button", name=title, exact=True).click()


def wait_for_steps(visit: Visit, key: str, steps: list[int]) -> None:
    wait_until(lambda: (drawn(visit, key) or [[]])[0] == steps, what=f"{key} at {steps[-1:]}")


def test_the_newest_run_is_shown_and_others_are_laid_over_it(browser: Browser, runs: Path) -> None:
    with live_page(runs) as address, visiting(browser, address) as visit:
        chart(visit, "quality/loss").locator("canvas").wait_for()
        assert curve_names(visit, "quality/loss") == ["0002 train", "0002 val"]
        assert ink_frac(chart(visit, "quality/loss").locator("canvas")) > 0.002
        choose(visit, "0001", "0002")
        names = ["0001 train", "0001 val", "0002 train", "0002 val"]
        wait_until(lambda: curve_names(visit, "quality/loss") == names, what="both runs in one chart")
        assert (drawn(visit, "quality/loss") or [])[0] == list(range(5, 101, 5))
        _, *curves = drawn(visit, "quality/loss") or []
        assert curves[0] == pytest.approx([row_of(step, rate=0.1)["train/loss"] for step in range(5, 101, 5)])
        assert curves[3][:16] == pytest.approx([row_of(step, rate=0.2)["val/loss"] for step in range(5, 81, 5)])
        assert visit.page.locator(".chart").count() == 5
        visit.page.get_by_placeholder("filter metrics").fill("noise")
        assert visit.page.locator(".chart").count() == 1
        seen(visit)


def test_the_choice_is_kept_when_the_page_is_loaded_again(browser: Browser, runs: Path) -> None:
    with live_page(runs) as address, visiting(browser, address) as visit:
        choose(visit, "0001")
        visit.page.get_by_label("log y").check()
        visit.page.locator("#x").select_option("epoch")
        open_tab(visit, "Config")
        visit.page.reload()
        visit.page.get_by_role("heading", name="Made from").wait_for()
        open_tab(visit, "Curves")
        wait_until(lambda: drawn(visit, "quality/loss") is not None, what="the chart")
        assert curve_names(visit, "quality/loss") == ["0001 train", "0001 val"]
        assert (drawn(visit, "quality/loss") or [])[0] == pytest.approx([step / 50 for step in range(5, 101, 5)])
        assert visit.page.get_by_label("log y").is_checked()
        seen(visit)


def test_smoothing_and_the_mouse_tell_values(browser: Browser, runs: Path) -> None:
    """The expected average is summed up by its definition; the first value is itself."""
    with live_page(runs) as address, visiting(browser, address) as visit:
        choose(visit, "0001")
        visit.page.locator("#smoothing").fill("0.5")
        wait_until(lambda: len(drawn(visit, "grad/norm") or []) == 3, what="the curve and its shade")
        _, shade, curve = drawn(visit, "grad/norm") or []
        steps = range(5, 101, 5)
        raw = [None if step == 50 else row_of(step, rate=0.1)["grad/norm"] for step in steps]
        assert shade == pytest.approx(raw)
        finite = [value for value in raw if value is not None]
        weights = [[0.5 ** (last - place) for place in range(last + 1)] for last in range(len(finite))]
        means = [sum(map(operator.mul, ws, finite)) / sum(ws) for ws in weights]
        assert [value for value in curve if value is not None] == pytest.approx(means)
        over = chart(visit, "grad/norm").locator(".u-over")
        over.scroll_into_view_if_needed()
        over.hover()
        told = chart(visit, "grad/norm").locator(".tooltip")
        told.wait_for()
        assert told.inner_text().startswith("step ")
        assert "0001" in told.inner_text()
        seen(visit)


def test_layers_pictures_tables_and_batch_are_shown(browser: Browser, runs: Path) -> None:
    with live_page(runs) as address, visiting(browser, address) as visit:
        choose(visit, "0001", "0002")
        open_tab(visit, "Layers")
        chart(visit, "layers/weight_norm").locator("canvas").wait_for()
        assert curve_names(visit, "layers/weight_norm") == [*LAYERS]
        open_tab(visit, "Pictures")
        pictures = visit.page.locator("main img")
        wait_until(lambda: pictures.count() == 2, what="two pictures")
        wait_until(lambda: all(p.evaluate("p => p.naturalWidth") == 64 for p in pictures.all()), what="their pixels")
        open_tab(visit, "Tables")
        table = visit.page.locator('section[data-name="val/per_class"] table').first
        table.get_by_role("button", name="accuracy").click()
        assert table.locator("tbody tr").all_inner_texts() == ["<b>dog</b>\t0.75", "owl\t0.5", "cat\t0.25"]
        open_tab(visit, "Speed and batch")
        card = visit.page.locator("article").filter(has_text="0001")
        assert card.locator(".advice").inner_text() == ADVICE
        assert "bounded by compute, 93 % of the time" in card.inner_text()
        card.locator("tbody tr").nth(2).wait_for()
        assert card.locator("tbody tr").all_inner_texts()[:2] == [
            "noise scale\t1,800\tgradients",
            "batch\t64\tbatch.size",
        ]
        assert len(drawn(visit, "grad/noise_scale_images") or []) == 5
        open_tab(visit, "Config")
        differing = visit.page.locator("section").filter(has_text="Options that differ")
        differing.locator("tbody td").nth(1).wait_for()
        assert differing.locator("tbody th, tbody td").all_inner_texts() == ["optimizer.rate", "0.1", "0.2"]
        seen(visit)


def test_charts_and_their_groups_are_those_of_the_report(browser: Browser, tmp_path: Path) -> None:
    """Whatever metrics are called: a lone end of a band is no band, and names of the language are names."""
    keys = ["gap/loss", "train/loss", "val/loss", "rate/mfu_frac", "mem/x_bytes", "plain", "layers/all"]
    keys += ["b/x_s", "b/x_low_s", "b/x_high_s", "c/y", "c/y_low", "d/z_high_s", "constructor/z", "__proto__/x"]
    keys += ["layers/norm/head"]
    log = MetricLog(start_run(tmp_path / "0001"), resume_step=0)
    for step in (1, 2):
        log.write(step=step, row=dict.fromkeys(keys, 0.5))
    log.close()
    charts = charts_of(read_run(tmp_path / "0001"))
    with live_page(tmp_path) as address, visiting(browser, address) as visit:
        shown = visit.page.locator("main .chart")
        wait_until(lambda: shown.count() == len(charts) - 1, what="all charts but that of layers")
        found = set(shown.evaluate_all("charts => charts.map((chart) => chart.dataset.key)"))
        heads = {title.lower().replace("_", " ") for title in visit.page.locator("main h2:visible").all_inner_texts()}
        open_tab(visit, "Layers")
        chart(visit, "layers/norm").wait_for()
        seen(visit)
    assert found == {chart.key for chart in charts} - {"layers/norm"}
    assert heads == {group_title(chart.group).lower() for chart in charts}


@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_on_a_phone(browser: Browser, runs: Path, dark: bool) -> None:
    with live_page(runs) as address, visiting(browser, address, width=375, height=700, dark=dark) as visit:
        visit.page.get_by_role("button", name="Runs", exact=True).click()
        choose(visit, "0001", "0002")
        visit.page.get_by_role("button", name="Runs", exact=True).click()
        for title in ("Curves", "Layers", "Pictures", "Tables", "Config", "Speed and batch"):
            open_tab(visit, title)
            visit.page.locator("main h2, main .chart").first.wait_for()
            seen(visit)


def test_names_of_a_hostile_run_are_text(browser: Browser, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "<b>run", steps=range(5, 101, 5), caption=HOSTILE)
    (folder / "config.yaml").write_text(f"seed: '{HOSTILE.replace(chr(39), chr(39) * 2)}'\n")
    log = MetricLog(folder, resume_step=100)
    log.write(step=101, row={f"x/{HOSTILE}": 1.0, "__proto__/x": 2.0, "constructor": 3.0, "layers/a": 1.0})
    log.write(step=102, row={f"x/{HOSTILE}": 2.0, "__proto__/x": 2.0, "constructor": 3.0, "layers/a": 1.0})
    log.table(step=102, name="a/b", columns=[HOSTILE], rows=[[HOSTILE]], caption=HOSTILE)
    log.close()
    with live_page(tmp_path) as address, visiting(browser, address) as visit:
        for title in ("Layers", "Pictures", "Tables", "Config", "Speed and batch", "Curves"):
            open_tab(visit, title)
            visit.page.locator("main h2, main .chart").first.wait_for()
        assert visit.page.title() == "Runs"
        assert visit.page.locator('img[src="x"]').count() == 0
        seen(visit)


def test_curves_grow_and_runs_come_and_go(browser: Browser, tmp_path: Path) -> None:
    with live_page(tmp_path) as address, visiting(browser, address) as visit:
        visit.page.get_by_text("no runs yet").wait_for()
        log = MetricLog(start_run(tmp_path / "0001"), resume_step=0)
        for step in range(1, 4):
            log.write(step=step, row={"train/loss": 1 / step})
        wait_for_steps(visit, "quality/loss", [1, 2, 3])
        log.write(step=4, row={"train/loss": 0.2})
        wait_for_steps(visit, "quality/loss", [1, 2, 3, 4])
        log.close()
        write_run(tmp_path / "0002", steps=range(5, 21, 5))
        wait_until(lambda: "0002 train" in curve_names(visit, "quality/loss"), what="the newest run")
        choose(visit, "0001", "0002")
        wait_for_steps(visit, "quality/loss", [1, 2, 3, 4, 5, 10, 15, 20])
        shutil.rmtree(tmp_path / "0002")
        wait_for_steps(visit, "quality/loss", [1, 2, 3, 4])
        wait_until(lambda: visit.page.locator("#runs li").count() == 1, what="the deleted run's end in the list")
        seen(visit)


def test_a_server_that_does_not_answer_is_told_and_found_again(browser: Browser, runs: Path) -> None:
    with live_page(runs) as address, visiting(browser, address) as visit:
        chart(visit, "quality/loss").locator("canvas").wait_for()
        visit.page.route("**/api/**", lambda route: route.abort())
        visit.page.get_by_text("the server does not answer").wait_for()
        assert chart(visit, "quality/loss").locator("canvas").count() == 1
        visit.page.unroute("**/api/**")
        visit.page.get_by_text("live", exact=True).wait_for()


def test_a_run_that_is_killed_and_goes_on_has_each_step_once(
    browser: Browser, synthetic: DataSet, tmp_path: Path
) -> None:
    """The page has drawn steps that the kill took from the run; their speed, measured anew, must be the one drawn."""
    folder = tmp_path / "runs" / "0001"
    # 50 steps an epoch, a row each 25: few enough that the page draws them all.
    options = [f"data.path={synthetic.root}", f"run_dir={folder}", *SMALL, "batch.size=2", "trainer.log_every_steps=25"]
    options += ["checkpoint.every_steps=100", "resume=true"]
    speed = "rate/images_per_s"
    with live_page(folder.parent) as address, visiting(browser, address) as visit:
        ranks = fork_ranks(1, tmp_path / "log", *options, "trainer.max_epochs=100000")
        try:
            visit.page.get_by_placeholder("filter metrics").fill("images_per_s")  # what is off the screen is not drawn
            wait_long(lambda: len((drawn(visit, speed) or [[]])[0]) > 2, what="the first steps on the page")
            visit.page.locator("#runs .state.running").wait_for()
            wait_for_step(folder, 200, ranks)
        finally:
            kill_ranks(ranks)
        # Without its last checkpoint, at least 100 steps are lost, whenever the kill came.
        stored_checkpoints(folder / "checkpoints")[0][1].unlink()
        written = read_run(folder).series[speed].steps
        visit.page.locator("#runs .state.stopped").wait_for()
        wait_until(lambda: (drawn(visit, speed) or [[0]])[0][-1] == written[-1], what="the last step before the kill")
        num_epochs = written[-1] // 50 + 2
        ranks = fork_ranks(1, tmp_path / "log", *options, f"trainer.max_epochs={num_epochs}")
        assert exit_codes(ranks) == [0], (tmp_path / "log").read_text()
        ended = read_run(folder).series[speed]
        assert ended.steps == list(range(25, 50 * num_epochs + 1, 25))
        visit.page.locator("#runs .state.finished").wait_for()
        wait_for_steps(visit, speed, ended.steps)
        assert (drawn(visit, speed) or [])[1] == pytest.approx(ended.values)
        seen(visit)
    assert urlsplit(visit.requests[0]).hostname == "127.0.0.1"
