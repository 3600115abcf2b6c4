"""Runs that differ by their seed alone are one configuration; others differ in what is told of them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from pipeline.track.report.comparison import differences, groups_of, mean_series, names_of, spread_text
from pipeline.track.report.comparison_page import comparison_of
from pipeline.track.run_reading import RunRecord, read_run
from report_runs import series, write_run

SHORT = {10: {"train/loss": 1.0}, 20: {"train/loss": 0.5}}


def change_facts(run: RunRecord, **facts: object) -> RunRecord:
    path = run.folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))
    return read_run(run.folder)


def test_seeds_of_one_configuration_are_one_group_and_other_options_part_them(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "0001", rows=SHORT, seed=0, rate=0.1),
        write_run(tmp_path / "0002", rows=SHORT, seed=0, rate=0.3),
        write_run(tmp_path / "0003", rows=SHORT, seed=1, rate=0.1),
    ]
    groups = groups_of(runs)
    assert [[run.name for run in members.runs] for members in groups] == [["0001", "0003"], ["0002"]]
    assert [members.label for members in groups] == ["rate=0.1, 2 seeds", "0002: rate=0.3"]
    assert differences(groups) == {"optimizer.rate": ["0.1", "0.3"]}


def test_where_a_run_lies_and_who_watched_it_part_no_group_and_other_data_does(tmp_path: Path) -> None:
    watched = {"logger": {"kind": "Wandb"}, "track": {"pictures": False}, "data": {"path": "/mnt/cifar10"}}
    runs = [
        write_run(tmp_path / "a", rows=SHORT, seed=0, options={"logger": {"kind": "None"}}),
        write_run(tmp_path / "b", rows=SHORT, seed=1, options=watched),
    ]
    assert len(groups_of(runs)) == 1
    runs.append(change_facts(write_run(tmp_path / "c", rows=SHORT, seed=2), fingerprint={"data": "another"}))
    assert len(groups_of(runs)) == 2


def test_another_commit_inside_a_group_is_told(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", rows=SHORT, seed=0)
    second = change_facts(write_run(tmp_path / "b", rows=SHORT, seed=1), git_commit="fedcba9876543210")
    assert differences(groups_of([first, second])) == {"git commit": ["0123456789ab, fedcba987654"]}


def test_runs_that_differ_in_much_go_by_their_names(tmp_path: Path) -> None:
    many = {"model": {"kind": "Other", "hidden": [1], "norm": "batch", "dropout": 0.5}}
    runs = [write_run(tmp_path / "a", rows=SHORT), write_run(tmp_path / "b", rows=SHORT, options=many)]
    assert [members.label for members in groups_of(runs)] == ["a", "b"]


def test_a_name_has_as_much_of_its_path_as_keeps_it_apart() -> None:
    folders = [Path("/x/sweep-1/0000"), Path("/x/sweep-2/0000"), Path("/x/0007")]
    assert list(names_of(folders).values()) == ["sweep-1/0000", "sweep-2/0000", "0007"]


def test_mean_and_spread_of_curves_are_taken_at_the_steps_that_all_have() -> None:
    values = [[0.3, -1.2, 4.0, 2.5, 9.0], [1.1, 0.4, 3.0, 2.5], [-0.2, 5.5, 3.5, 2.5, 1.0]]
    several = [series(list(row)) for row in values]
    mean, low, high = mean_series(several)
    assert mean.steps == [1, 2, 3, 4]
    for step, column in enumerate(zip(*values, strict=False)):
        centre, spread = statistics.fmean(column), statistics.stdev(column)
        found = mean.values[step], low[step], high[step]
        assert found == pytest.approx((centre, centre - spread, centre + spread), rel=1e-12)
    several[2] = series([None, 1.0, 2.0, 3.0])
    mean, low, high = mean_series(several)
    assert (mean.values[0], low[0], high[0]) == (None, None, None)
    assert None not in mean.values[1:]


def test_seeds_without_a_step_in_common_have_no_mean(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / name, rows={step: {"val/loss": 1.0} for step in steps}, seed=seed)
        for seed, (name, steps) in enumerate({"a": (10, 20), "b": (15, 25)}.items())
    ]
    page = comparison_of(runs, groups_of(runs))
    content = page.partition('id="curves">')[2].partition("</script>")[0]
    (chart,) = json.loads(content)["charts"]
    assert [(curve["name"], curve["view"]) for curve in chart["curves"]] == [("a, val", "each"), ("b, val", "each")]


@pytest.mark.parametrize(
    ("key", "values", "text"),
    [
        ("val/top1_frac", [0.46, 0.48], "47.0 ± 1.4 %"),
        ("val/loss", [1.5, 1.5], "1.500"),
        ("val/loss", [1.0, 2.0], "1.50 ± 0.71"),
        ("val/loss", [0.287, 0.25], "0.268 ± 0.026"),
        ("wall_s", [75.5], "75.5 s"),
        ("wall_s", [75.5, 80.0], "77.8 ± 3.2 s"),
        ("rate/images_per_s", [3_200.0, 3_260.0], "3,230 ± 42 images/s"),
        ("mem/rss_bytes", [7e8, 7.2e8], "710 ± 14 MB"),
        ("val/loss", [], "–"),
    ],
)
def test_a_spread_needs_two_values(key: str, values: list[float], text: str) -> None:
    assert spread_text(key, values) == text
