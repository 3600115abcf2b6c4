"""A study from its declaration to its report, with real runs; typed again it runs nothing anew."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from made_runs import made_run
from pipeline import study
from pipeline.shards.errors import UserError
from pipeline.studies import STUDIES, data_sets
from pipeline.studies.estimate import difference_of
from pipeline.studies.result import publish
from pipeline.studies.study import Group, Outcome, Picture, Scale, Study, StudyRuns
from pipeline.studies.verdict import Check
from pipeline.study import carry_out_study, main
from pipeline.study_config import StudyConfig
from pipeline.sweeping.axes import points, read_swept
from pipeline.sweeping.many import resolved
from pipeline.track.plots import Axis, Panel, Series

SHORT = ("optimizer=sgd", "augment=none", "batch.size=50", "trainer.max_epochs=8", "optimizer.rate=0.1")


def groups(scale: Scale, seeds: str) -> Sequence[Group]:
    return [
        Group(name="linear", data="rings", options=("model=logistic_regression", f"seed={seeds}", *SHORT)),
        Group(name="hidden", data="rings", options=("model=mlp", "model.hidden=[8],[32]", f"seed={seeds}", *SHORT)),
    ]


def measure(runs: StudyRuns) -> Outcome:
    wide = runs.values("hidden", "val/top1_frac", {"model.hidden": "[32]"})
    linear = runs.values("linear", "val/top1_frac")
    check = Check(claim="better", statistic="accuracy gained", estimate=difference_of(wide, linear), above=0.1)
    panel = Panel(x=Axis(label="seed"), y=Axis(label="accuracy"), series=[Series(x=[0, 1], y=wide)])
    return Outcome(
        checks=[check],
        picture=Picture(title="Rings", caption="n = 2 seeds", panels=[panel]),
        columns=["model", "accuracy"],
        rows=[["linear", linear[0]], ["hidden", wide[0]]],
    )


STUDY = Study(
    name="tiny",
    title="A <tiny> study",
    claim="One hidden layer separates rings.",
    question="Does it?",
    groups=groups,
    measure=measure,
    seeds={Scale.laptop: 2, Scale.gpu: 3},
)


@pytest.mark.slow
def test_a_study_runs_measures_and_tells_and_again_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    small = ("source=points", "source.samples=400", "source.val_samples=200")
    monkeypatch.setattr(data_sets, "DATA_SETS", {"rings": small})
    config = StudyConfig(dir=str(tmp_path / "studies"), data=str(tmp_path / "data"))
    result = carry_out_study(STUDY, config)
    folder = tmp_path / "studies" / "tiny"
    assert json.loads((folder / "result.json").read_text()) == result
    assert (result["runs"], result["seeds"], result["scale"]) == (6, 2, "laptop")
    first, second = (
        [json.loads((folder / "runs" / number / "summary.json").read_text())["val/top1_frac"] for number in numbers]
        for numbers in (("0004", "0005"), ("0000", "0001"))
    )
    assert result["value"] == pytest.approx(sum(first) / 2 - sum(second) / 2)
    assert result["data"] == ["points on two rings"]
    assert result["checks"][0]["passes"] == (result["interval"][0] > 0.1)
    page = (folder / "report.html").read_text()
    assert "A &lt;tiny&gt; study" in page
    assert "data:image/png;base64," in page
    assert (folder / "figure.png").read_bytes()[:4] == b"\x89PNG"
    capfd.readouterr()
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("summary.json")}
    assert carry_out_study(STUDY, config) == result
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("summary.json")} == before


def test_what_has_no_value_is_told_and_published_as_none(tmp_path: Path) -> None:
    estimate = difference_of([1.0, math.nan], [0.5, 0.5])
    check = Check(claim="better", statistic="accuracy gained", estimate=estimate, above=0.1)
    panel = Panel(x=Axis(label="seed"), y=Axis(label="accuracy"), series=[Series(x=[0], y=[1.0])])
    picture = Picture(title="Rings", caption="n = 2 seeds", panels=[panel])
    outcome = Outcome(checks=[check], picture=picture, columns=["model"], rows=[["linear"]])
    runs = StudyRuns(runs=[made_run("x", config={"seed": seed}, summary={"wall_s": 1.0}) for seed in (0, 1)])
    publish(tmp_path, STUDY, outcome, runs=runs, scale=Scale.laptop, data=["rings"])
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["value"], result["interval"], result["checks"][0]["passes"]) == (None, None, False)
    assert "none: it takes two seeds" in (tmp_path / "report.html").read_text()


def test_of_all_studies_one_that_fails_leaves_the_others_and_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def carry_out(found: Study, config: StudyConfig) -> dict[str, Any]:
        if found.name == "bad":
            raise UserError("bad: 1 of 3 runs failed")
        return {"statistic": "gain", "value": 2.5, "interval": None, "verdict": "holds", "seconds": 61.4}

    names = ("first", "bad", "last")
    monkeypatch.setattr(study, "STUDIES", {name: replace(STUDY, name=name) for name in names})
    monkeypatch.setattr(study, "carry_out_study", carry_out)
    with pytest.raises(UserError, match="1 of 3 studies failed; the first: bad: 1 of 3 runs"):
        main([])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[-3:]]
    assert lines == [["first", "holds", "61", "s"], ["bad", "failed"], ["last", "holds", "61", "s"]]


@pytest.mark.slow
def test_options_for_all_runs_have_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ("source=points", "source.samples=100", "source.val_samples=100")
    monkeypatch.setattr(data_sets, "DATA_SETS", {"rings": small})
    config = StudyConfig(
        dir=str(tmp_path / "studies"), data=str(tmp_path), options=["track.report=true", "trainer.max_epochs=1"]
    )
    carry_out_study(STUDY, config)
    runs = tmp_path / "studies" / "tiny" / "runs"
    assert len(list(runs.glob("*/report.html"))) == 6
    assert {json.loads(path.read_text())["steps"] for path in runs.glob("*/summary.json")} == {2}


@pytest.mark.slow
def test_a_follow_up_is_decided_by_runs_that_are_finished_and_measured_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("source=points", "source.samples=100", "source.val_samples=100")
    monkeypatch.setattr(data_sets, "DATA_SETS", {"rings": small})
    measured: list[str] = []

    def tune(scale: Scale, seeds: str) -> Sequence[Group]:
        options = ("model=mlp", "model.hidden=[8]", "seed=9", *SHORT[:3], "trainer.max_epochs=1")
        return [Group(name="tuning", data="rings", options=(*options, "optimizer.rate=1e-9,0.1"))]

    def follow_up(runs: StudyRuns, scale: Scale, seeds: str) -> Sequence[Group]:
        best = min(runs.of("tuning"), key=lambda run: run.metric("val/loss")).options["optimizer.rate"]
        options = ("model=mlp", "model.hidden=[8]", f"seed={seeds}", *SHORT[:3], "trainer.max_epochs=1")
        return [Group(name="tuned", data="rings", options=(*options, f"optimizer.rate={best}"))]

    def measure_both(runs: StudyRuns) -> Outcome:
        measured.extend(f"{run.group} {run.record.config['optimizer']['rate']:g}" for run in runs.runs)
        rates = [run.record.config["optimizer"]["rate"] for run in runs.of("tuned")]
        check = Check(claim="it is used", statistic="rate", estimate=difference_of(rates, [0.0, 0.0]), above=0.05)
        return replace(measure_outcome, checks=[check])

    panel = Panel(x=Axis(label="seed"), y=Axis(label="rate"), series=[Series(x=[0], y=[1])])
    picture = Picture(title="Rings", caption="n = 2 seeds", panels=[panel])
    measure_outcome = Outcome(checks=[], picture=picture, columns=["seed"], rows=[[0]])
    two_stages = replace(STUDY, groups=tune, follow_up=follow_up, measure=measure_both)
    config = StudyConfig(dir=str(tmp_path / "studies"), data=str(tmp_path))
    result = carry_out_study(two_stages, config)
    assert measured == ["tuning 1e-09", "tuning 0.1", "tuned 0.1", "tuned 0.1"]
    assert (result["runs"], result["verdict"]) == (4, "holds")


def test_a_study_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(UserError, match="no such study; there are all, linear-limits"):
        main(["name=rings"])


def test_every_data_set_has_words_for_the_figures() -> None:
    assert list(data_sets.TITLES) == list(data_sets.DATA_SETS)


@pytest.mark.parametrize("seeds", [0, 1])
def test_too_few_seeds_to_conclude_from_are_refused(seeds: int) -> None:
    with pytest.raises(UserError, match=f"seeds={seeds}: at least 2 wanted.*no spread"):
        main(["name=linear-limits", f"seeds={seeds}"])


@pytest.mark.parametrize("scale", Scale)
@pytest.mark.parametrize("declared", STUDIES.values(), ids=STUDIES)
def test_a_study_declares_runs_that_compose(declared: Study, scale: Scale) -> None:
    seeds = ",".join(map(str, range(declared.seeds[scale])))
    num_runs = 0
    for group in declared.groups(scale, seeds):
        assert group.data in data_sets.DATA_SETS
        swept = read_swept([f"data.path=data/{group.data}", *group.options])
        found = points(swept.axes)
        num_runs += len(found)
        # To compose takes tens of milliseconds; what lies between differs in nothing but numbers.
        assert resolved(swept.fixed, found[:: max(1, len(found) - 1)])
    # What a follow-up is decided by has a seed of its own; a group may be of one seed.
    assert num_runs % (declared.seeds[scale] if declared.follow_up is None else 1) == 0
