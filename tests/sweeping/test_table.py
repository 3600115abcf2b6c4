"""Tables of a sweep: means and spreads against numpy's, formats read back by other readers."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest

from pipeline.shards.errors import UserError
from pipeline.sweep_config import Goal
from pipeline.sweeping.table import (
    Result,
    best_line,
    check_metric,
    csv_text,
    is_higher_better,
    lines_of,
    lines_table,
    markdown_table,
    number_text,
    runs_table,
    shown,
    shown_metric,
    table_of,
    text_table,
)

ACCURACIES = np.random.default_rng(0).uniform(0.3, 0.5, size=(2, 3))
RESULTS = [
    Result(
        number=3 * index + seed,
        options={"optimizer.rate": rate, "seed": str(seed)},
        summary={"val/top1_frac": ACCURACIES[index, seed], "val/loss": 1.0, "steps": 10, "run_dir": "x"},
    )
    for index, rate in enumerate(["0.01", "0.1"])
    for seed in range(3)
]
FAILED = Result(number=6, options={"optimizer.rate": "9", "seed": "0"}, failure="exit code 2: error: a | b")


def test_lines_bring_seeds_together_with_mean_and_sample_deviation() -> None:
    lines = lines_of([*RESULTS, FAILED], metric="val/top1_frac")
    assert [line.options for line in lines] == [{"optimizer.rate": rate} for rate in ("0.01", "0.1", "9")]
    for line, values in zip(lines, ACCURACIES, strict=False):
        assert line.mean == pytest.approx(np.mean(values))
        assert line.sd == pytest.approx(np.std(values, ddof=1))
        assert line.seeds == (0, 1, 2)
    assert (lines[2].values, lines[2].num_failed, lines[2].sd) == ((), 1, None)
    assert math.isnan(lines[2].mean)


def test_the_best_is_the_highest_or_the_lowest_mean_and_never_a_failed_one() -> None:
    lines = lines_of([*RESULTS, FAILED], metric="val/top1_frac")
    means = ACCURACIES.mean(axis=1)
    assert best_line(lines, higher=True) is lines[int(np.argmax(means))]
    assert best_line(lines, higher=False) is lines[int(np.argmin(means))]
    assert best_line(lines[2:], higher=True) is None


@pytest.mark.parametrize(
    ("metric", "higher"),
    [("val/top1_frac", True), ("val/loss", False), ("wall_s", False), ("rate/images_per_s", True)],
)
def test_which_way_is_up_goes_by_the_name_unless_it_is_said(metric: str, higher: bool) -> None:
    assert is_higher_better(metric, Goal.auto) is higher
    assert is_higher_better(metric, Goal.highest)
    assert not is_higher_better(metric, Goal.lowest)


def test_a_metric_that_no_run_has_is_refused_with_those_there_are() -> None:
    check_metric(RESULTS, "val/loss")
    check_metric([FAILED], "anything")
    with pytest.raises(
        UserError, match=r"sweep.metric=val/map_frac: no run has it; there are steps, val/loss, val/top1"
    ):
        check_metric(RESULTS, "val/map_frac")


def test_the_metric_that_is_shown_is_the_one_that_tells_how_good_the_runs_are() -> None:
    regression = Result(number=0, options={}, summary={"val/mse": 0.2, "val/r2_frac": 0.8, "val/top1_frac": math.nan})
    assert shown_metric(RESULTS, None) == "val/top1_frac"
    assert shown_metric([FAILED, regression], None) == "val/r2_frac"
    assert shown_metric([regression], "val/mse") == "val/mse"
    assert shown_metric([FAILED], None) == "val/top1_frac"
    header, rows = runs_table([regression], metric="val/mse")
    assert (header[1:3], rows[0][1:3]) == (["val/mse", "val/top1_frac"], ["0.2", "nan"])


def test_csv_is_read_back_by_another_reader() -> None:
    for table in (runs_table([*RESULTS, FAILED], metric="val/top1_frac"), ([",", '"'], [["a\nb", "c"]])):
        assert list(csv.reader(io.StringIO(csv_text(*table)))) == [table[0], *table[1]]
    rows = list(csv.DictReader(io.StringIO(csv_text(*runs_table([*RESULTS, FAILED], metric="val/top1_frac")))))
    assert [float(row["val/top1_frac"]) for row in rows[:6]] == ACCURACIES.ravel().tolist()
    assert (rows[6]["val/top1_frac"], rows[6]["failure"]) == ("", FAILED.failure)
    lines = lines_of([*RESULTS, FAILED], metric="val/top1_frac")
    over_seeds = list(csv.DictReader(io.StringIO(csv_text(*lines_table(lines, metric="val/top1_frac")))))
    assert float(over_seeds[0]["sd"]) == pytest.approx(np.std(ACCURACIES[0], ddof=1))
    assert (over_seeds[0]["seeds"], over_seeds[2]["failed"]) == ("0 1 2", "1")


def test_the_table_for_people_has_units_a_star_and_what_failed() -> None:
    lines = lines_of([*RESULTS, FAILED], metric="val/top1_frac")
    best = best_line(lines, higher=True)
    header, rows = table_of(lines, metric="val/top1_frac", best=best)
    assert header == ["", "optimizer.rate", "val/top1 (%), ± sd", "runs"]
    assert [row[0] for row in rows] == ["*" if line is best else "" for line in lines]
    mean, sd = 100 * ACCURACIES[0].mean(), 100 * ACCURACIES[0].std(ddof=1)
    told_mean, told_sd = map(float, rows[0][2].split(" ± "))
    assert told_mean == pytest.approx(mean, abs=sd / 20)
    assert told_sd == pytest.approx(sd, rel=0.06)
    assert rows[2][2:] == ["failed", "0, 1 failed"]
    text = text_table(header, rows)
    assert len({line.find("±") for line in text.splitlines()[1:3]}) == 1
    markdown = markdown_table(header, [["", "a|b", "c", "d"]])
    assert [line.replace("\\|", "").count("|") for line in markdown.splitlines()] == [5, 5, 5]


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (46.9123, 0.3412, "46.91 ± 0.34"),
        (46.9123, 3.412, "46.9 ± 3.4"),
        (0.123456, 0.00078, "0.12346 ± 0.00078"),
        (12345.6, 234.5, "12,346 ± 234"),
        (1.53249, None, "1.532"),
        (123456.0, None, "123,456"),
        (50.0, 0.0, "50 ± 0"),
    ],
)
def test_numbers_have_the_digits_that_their_spread_leaves_them(value: float, spread: float | None, text: str) -> None:
    assert number_text(value, spread) == text


def test_units_are_taken_from_the_name_of_a_metric() -> None:
    assert shown("val/top1_frac") == ("val/top1", 100.0, "%")
    assert shown("wall_s") == ("wall", 1.0, "s")
    assert shown("rate/images_per_s") == ("rate/images_per_s", 1.0, "")
    assert shown("val/loss") == ("val/loss", 1.0, "")
