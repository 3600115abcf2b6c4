"""The study of linear classifiers: what it concludes and draws from runs on rings."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.studies.linear_limits import groups, measure
from pipeline.studies.panels.plane import LEVELS
from pipeline.studies.study import Scale, StudyRun, StudyRuns
from pipeline.studies.verdict import Verdict, verdict_of
from pipeline.track.run_reading import RunRecord, read_run
from runs import train_here
from tiny_data import prepare_here

pytestmark = pytest.mark.slow

MODELS = {"linear": ["model=logistic_regression"], "hidden": ["model=mlp", "model.hidden=[32]"]}
SHORT = ["optimizer=sgd", "optimizer.rate=0.1", "augment=none", "batch.size=32", "trainer.max_epochs=30"]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[RunRecord]]:
    """Two seeds of each model on rings."""
    folder = tmp_path_factory.mktemp("rings")
    rings = prepare_here(folder / "rings", "source=points", "source.samples=400", "source.val_samples=200")
    found: dict[str, list[RunRecord]] = {}
    for kind, model in MODELS.items():
        for seed in (0, 1):
            run_dir = folder / f"{kind}-{seed}"
            train_here(rings.root, run_dir, *model, *SHORT, f"seed={seed}")
            found.setdefault(kind, []).append(read_run(run_dir))
    return found


def runs_of(records: dict[str, list[RunRecord]], kinds: dict[str, str]) -> StudyRuns:
    """Give each group the runs of a model."""
    return StudyRuns(
        runs=[
            StudyRun(group=group, options={"seed": str(seed)}, record=record)
            for group, kind in kinds.items()
            for seed, record in enumerate(records[kind])
        ]
    )


def test_the_verdict_follows_the_runs(records: dict[str, list[RunRecord]]) -> None:
    names = [group.name for group in groups(Scale.laptop, "0,1")]
    outcome = measure(runs_of(records, {name: name.split(", ")[1] for name in names}))
    assert verdict_of(outcome.checks) is not Verdict.fails
    gain = outcome.checks[0].estimate
    accuracy = {kind: [record.summary["val/top1_frac"] for record in found] for kind, found in records.items()}
    assert gain.value == pytest.approx(50 * (sum(accuracy["hidden"]) - sum(accuracy["linear"])))
    # The other way round nothing of the claim holds.
    swapped = {name: {"linear": "hidden", "hidden": "linear"}[name.split(", ")[1]] for name in names}
    assert verdict_of(measure(runs_of(records, swapped)).checks) is Verdict.fails


def test_the_boundary_drawn_is_the_models_own(records: dict[str, list[RunRecord]], tmp_path: Path) -> None:
    names = [group.name for group in groups(Scale.laptop, "0,1")]
    panels = measure(runs_of(records, {name: name.split(", ")[1] for name in names})).picture.panels
    assert all(panel.field is not None for panel in panels[:2])
    _, hidden = (panel.field.values for panel in panels[:2] if panel.field is not None)
    middle, edge = len(LEVELS) // 2, 8
    assert hidden[middle][middle] < 0.1  # the inner ring
    assert min(hidden[middle][edge], hidden[edge][middle], hidden[-edge][middle], hidden[middle][-edge]) > 0.9
