"""docs/LECTURE.md: every study in its place, with the figure, the verdict and the numbers that were measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.studies import STUDIES
from pipeline.studies.result import VERSION, command_of
from pipeline.studies.study import Scale, Study
from pipeline.studies.verdict import Verdict

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "LECTURE.md"
MAX_FIGURE_BYTES = 200_000


def section_of(name: str) -> str:
    """Return the text of the section that shows a study's figure."""
    sections = re.split(r"^(?=##+ )", PAGE.read_text(), flags=re.MULTILINE)
    (section,) = [section for section in sections if f"images/study-{name}.png" in section]
    return section


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_a_study_is_told_with_its_figure_its_verdict_and_its_command(study: Study) -> None:
    result = json.loads((DOCS / "studies" / f"{study.name}.json").read_text())
    assert (result["version"], result["name"], result["claim"]) == (VERSION, study.name, study.claim)
    row = rf"^\| \[`{study.name}`\]\(#\S+\) \| {re.escape(study.claim)} \| {result['verdict']} \|$"
    assert re.search(row, PAGE.read_text(), flags=re.MULTILINE)
    section = section_of(study.name)
    assert result["command"] == command_of(study, Scale.laptop)
    assert result["command"] in section
    assert f"**{result['verdict']}**" in section
    figure = DOCS / "images" / f"study-{study.name}.png"
    assert figure.read_bytes()[:4] == b"\x89PNG"
    assert figure.stat().st_size <= MAX_FIGURE_BYTES


@pytest.mark.parametrize("name", STUDIES)
def test_a_verdict_that_is_told_follows_from_the_checks_that_were_measured(name: str) -> None:
    result = json.loads((DOCS / "studies" / f"{name}.json").read_text())
    passes = [check["passes"] for check in result["checks"]]
    expected = Verdict.holds if all(passes) else Verdict.conditions if any(passes) else Verdict.fails
    assert result["verdict"] == expected.value
    for check in result["checks"]:
        inside = check["interval"] is not None and _is_within(check["interval"], check["wanted"])
        assert check["passes"] == inside, check["statistic"]


def test_the_page_shows_no_figure_of_a_study_that_is_not_there() -> None:
    assert sorted(re.findall(r"images/study-([a-z-]+)\.png", PAGE.read_text())) == sorted(STUDIES)


def _is_within(interval: list[float], wanted: str) -> bool:
    low, high = interval
    if match := re.fullmatch(r"between (\S+) and (\S+)", wanted):
        return float(match[1]) < low and high < float(match[2])
    kind, bound = wanted.split()
    return low > float(bound) if kind == "over" else high < float(bound)
