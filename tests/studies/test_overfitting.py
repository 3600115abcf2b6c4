"""The study of overfitting: what it reads of runs, and what it concludes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS, TrainConfig
from pipeline.shards.errors import UserError
from pipeline.studies.overfitting import EARLY, NONE, TECHNIQUES, TOGETHER, evaluations_of, groups, measure
from pipeline.studies.study import Scale, StudyRun, StudyRuns
from pipeline.studies.verdict import Verdict, verdict_of
from pipeline.track.plots import save_plot
from pipeline.track.run_reading import RunRecord, Series, read_run
from runs import train_here
from tiny_data import prepare_here

EPOCHS, STEPS = 6, 60


def made_run(group: str, *, seed: int, train: list[float], val: list[float], loss: list[float]) -> StudyRun:
    """A run with an evaluation every second epoch."""
    steps = [20, 40, 60]
    values = {"gap/train_top1_frac": train, "val/top1_frac": val, "val/loss": loss}
    record = RunRecord(
        folder=Path("run"),
        name="run",
        config={"seed": seed, "trainer": {"max_epochs": EPOCHS}},
        facts={},
        summary={"steps": STEPS, "data": {"train_samples": 2000}},
        series={name: Series(steps=steps, values=list(found)) for name, found in values.items()},
        media=[],
    )
    return StudyRun(group=group, options={}, record=record)


def made(last_train: dict[str, float], last_val: dict[str, float]) -> StudyRuns:
    """Three seeds of each group, alike but for tenths of a point; the loss is lowest at the first evaluation."""
    return StudyRuns(
        runs=[
            made_run(
                name,
                seed=seed,
                train=[0.5, 0.7, last_train[name] + seed / 1000],
                val=[0.40, 0.42, last_val[name] + seed / 500],
                loss=[1.7, 1.9, 2.5],
            )
            for name in (NONE, *TECHNIQUES, TOGETHER)
            for seed in range(3)
        ]
    )


def of_all(value: float, **others: float) -> dict[str, float]:
    named = {"none": NONE, "together": TOGETHER, "mixup": "mixup"}
    return dict.fromkeys((NONE, *TECHNIQUES, TOGETHER), value) | {named[name]: one for name, one in others.items()}


def test_narrower_gaps_and_a_gain_make_the_claim_hold() -> None:
    outcome = measure(made(of_all(0.8, none=1.0), of_all(0.41, none=0.39, together=0.43)))
    assert verdict_of(outcome.checks) is Verdict.holds
    gain, gap, early, *others = (check.estimate.value for check in outcome.checks)
    assert gain == pytest.approx(4.0)
    # 100.1 % minus 39.2 %, on average over seeds; at the lowest loss 50 % minus 40 %.
    assert gap == pytest.approx(60.9)
    assert early == pytest.approx(50.9)
    # A technique: 80.1 % minus 41.2 %; all together: minus 43.2 %.
    assert others == pytest.approx([22.0] * len(TECHNIQUES) + [24.0])
    assert outcome.rows[1][:3] == [EARLY, "50.0 ± 0.0", "40.0 ± 0.0"]
    assert outcome.rows[1][5] == "2"


def test_a_technique_that_leaves_the_gap_as_it_is_makes_the_claim_conditional() -> None:
    outcome = measure(made(of_all(0.8, none=1.0, mixup=1.0), of_all(0.41, none=0.39, together=0.43, mixup=0.38)))
    failed = [check.statistic for check in outcome.checks if not check.passes]
    assert failed == ["gap with none minus gap with mixup, points"]
    assert verdict_of(outcome.checks) is Verdict.conditions
    (note,) = [note for note in outcome.notes if note.startswith("Mixup")]
    assert note.startswith("Mixup changes the validation accuracy by -1.0 points (-1.0 to -1.0)")


def test_where_nothing_overfits_and_nothing_helps_the_claim_does_not_hold() -> None:
    runs = made(of_all(0.45, none=0.40), of_all(0.38, none=0.39))
    checks = [check for check in measure(runs).checks if EARLY not in check.statistic]
    assert not any(check.passes for check in checks)


def test_evaluations_without_a_gap_are_an_error_that_names_the_run() -> None:
    run = made_run(NONE, seed=0, train=[0.5] * 3, val=[0.4] * 3, loss=[1.0] * 3)
    del run.record.series["gap/train_top1_frac"]
    with pytest.raises(UserError, match="not each evaluation has its gap"):
        evaluations_of(run)


@pytest.mark.parametrize("scale", Scale)
def test_each_technique_is_one_option_more_and_together_are_all_of_them(scale: Scale) -> None:
    configs = {group.name: composed(group.options) for group in groups(scale, "0")}
    assert list(configs) == [NONE, *TECHNIQUES, TOGETHER]
    chosen = {name: regularisation_of(config) for name, config in configs.items()}
    assert chosen[NONE] == (0.0, 0.0, False, None, 0.0)
    for place, name in enumerate(TECHNIQUES):
        differing = [part for part in range(len(TECHNIQUES)) if chosen[name][part] != chosen[NONE][part]]
        assert differing == [place]
        assert chosen[TOGETHER][place] == chosen[name][place]


def composed(options: tuple[str, ...]) -> TrainConfig:
    config: TrainConfig = compose("train", TRAIN_SCHEMAS, ["data.path=x", *options])
    return config


def regularisation_of(config: TrainConfig) -> tuple[object, ...]:
    """What is regularised by, in the order of TECHNIQUES."""
    return (
        config.model.dropout,  # type: ignore[attr-defined]
        config.optimizer.weight_decay,
        config.augment.flip,
        config.augment.mixup_alpha,
        config.objective.label_smoothing,  # type: ignore[attr-defined]
    )


def test_a_real_run_is_read_as_it_was_logged_and_the_whole_is_drawn(tmp_path: Path) -> None:
    data = prepare_here(
        tmp_path / "data", "source=synthetic", "source.samples=60", "source.val_samples=40", "layout.resolution=4"
    )
    options = ("trainer.max_epochs=6", "evaluation.every_epochs=2", "track.gap=true")
    summary = train_here(data.root, tmp_path / "run", *options)
    record = read_run(tmp_path / "run")
    names = (NONE, *TECHNIQUES, TOGETHER)
    runs = StudyRuns(runs=[StudyRun(group=name, options={}, record=record) for name in names])
    found = evaluations_of(runs.runs[0])
    assert [one.epoch for one in found] == [2, 4, 6]
    assert found[-1].val == pytest.approx(100 * summary["val/top1_frac"])
    assert found[-1].gap == pytest.approx(100 * record.series["gap/top1_frac"].values[-1])  # type: ignore[operator]
    picture = measure(runs).picture
    save_plot(tmp_path / "figure.png", picture.panels, title=picture.title, caption=picture.caption)
    assert "n = 1 seed (0)" in picture.caption
