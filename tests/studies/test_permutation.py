"""The study of shuffled pixels: what it concludes of accuracies and of the first layer's weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS, TrainConfig
from pipeline.studies.data_sets import DATA_SETS
from pipeline.studies.measures.first_layer import DRAWN_SIDE, Weights, neighbour_correlation, units
from pipeline.studies.permutation import FLIPS, FLIPS_FIRST, FLIPS_LAST, PLAIN, SHUFFLED, groups, measure
from pipeline.studies.study import ACCURACY, Scale, StudyRun, StudyRuns
from pipeline.studies.verdict import Verdict, verdict_of
from pipeline.track.plots import save_plot
from pipeline.track.run_reading import RunRecord, Series, read_run
from runs import train_here
from tiny_data import prepare_here

SHAPE = (8, 8, 3)
NAMES = (PLAIN, SHUFFLED, FLIPS, FLIPS_FIRST, FLIPS_LAST)


def noise(seed: int = 0) -> Weights:
    return np.random.default_rng(seed).normal(size=(200, 192)).astype(np.float32)


def smooth() -> Weights:
    """Sums over 2x2 windows: two neighbours share two of four terms, so their correlation is 1/2."""
    values = np.random.default_rng(0).normal(size=(400, 9, 9, 3))
    return (values[:, 1:, 1:] + values[:, 1:, :-1] + values[:, :-1, 1:] + values[:, :-1, :-1]).reshape(400, 192)


def test_neighbours_correlate_as_they_share_terms() -> None:
    assert neighbour_correlation(noise(), SHAPE) == pytest.approx(0, abs=0.02)
    assert neighbour_correlation(smooth(), SHAPE) == pytest.approx(0.5, abs=0.02)
    checked = np.indices((8, 8)).sum(axis=0) % 2 * 2.0 - 1
    board = np.repeat(checked[:, :, None], 3, axis=2).reshape(1, 192)
    assert neighbour_correlation(board, SHAPE) == pytest.approx(-1)
    # Shuffled, smooth weights are noise.
    order = np.random.default_rng(1).permutation(192)
    assert abs(neighbour_correlation(smooth()[:, order], SHAPE)) < 0.1


def test_the_strongest_units_are_drawn_upright_in_reading_order() -> None:
    weights = np.zeros((20, 192), np.float32)
    for unit in range(20):
        weights[unit, :3] = unit + 1  # the pixel at the top left, all channels
    panel = units(weights, SHAPE, scale=1.0, title="")
    assert panel.field is not None
    sheet = np.array(panel.field.values)[::-1]  # a field's first row is the lowest
    assert sheet.shape == (DRAWN_SIDE * 9 - 1, DRAWN_SIDE * 9 - 1)
    assert sheet[::9, ::9].ravel().tolist() == list(range(20, 4, -1))
    assert np.isnan(sheet[8]).all()


def test_every_group_of_a_seed_has_the_options_that_its_name_says() -> None:
    found = groups(Scale.laptop, "0,3")
    assert [group.name for group in found] == [*NAMES, *NAMES]
    for group in found[5:]:
        assert "seed=3" in group.options
        assert ("model.input_shuffle_seed=3" in group.options) == (group.name in (SHUFFLED, FLIPS_FIRST))
        assert ("augment.flip=true" in group.options) == (group.name in (FLIPS, FLIPS_FIRST, FLIPS_LAST))
        assert group.data.endswith("-shuffled") == (group.name == FLIPS_LAST)


@pytest.mark.parametrize("scale", Scale)
def test_the_options_of_every_group_are_trainings_own(scale: Scale) -> None:
    for group in groups(scale, "4"):
        assert group.data in DATA_SETS
        config: TrainConfig = compose("train", TRAIN_SCHEMAS, ["data.path=x", *group.options])
        assert config.model.input_shuffle_seed == (4 if group.name in (SHUFFLED, FLIPS_FIRST) else None)
        assert config.augment.flip == (group.name in (FLIPS, FLIPS_FIRST, FLIPS_LAST))
        assert config.augment.crop_padding == 0


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunRecord]:
    """A run without and one with a shuffle, on images that are smooth and so teach smooth weights."""
    folder = tmp_path_factory.mktemp("shuffled")
    data = prepare_here(
        folder / "data", "source=synthetic", "source.samples=200", "source.val_samples=50", "layout.resolution=8"
    )
    found = {}
    for name, seed in (("plain", "null"), ("shuffled", "1")):
        options = (f"model.input_shuffle_seed={seed}", "optimizer.rate=0.1", "trainer.max_epochs=20")
        train_here(data.root, folder / name, *options)
        found[name] = read_run(folder / name)
    return found


def runs_of(records: dict[str, RunRecord], accuracies: dict[str, float]) -> StudyRuns:
    """Three seeds of each group that differ by a tenth of a point."""
    runs = []
    for name, accuracy in accuracies.items():
        record = records["shuffled" if name in (SHUFFLED, FLIPS_FIRST) else "plain"]
        for seed in range(3):
            value = accuracy / 100 + seed / 1000
            made = dataclasses.replace(
                record,
                config=record.config | {"seed": seed},
                summary=record.summary | {ACCURACY: value},
                series=record.series | {ACCURACY: Series(steps=[1, 2], values=[0.1, value])},
            )
            runs.append(StudyRun(group=name, options={}, record=made))
    return StudyRuns(runs=runs)


def test_equal_accuracies_make_the_claim_hold_and_others_do_not(records: dict[str, RunRecord]) -> None:
    outcome = measure(runs_of(records, dict(zip(NAMES, (50.0, 50.5, 52.0, 51.5, 48.0), strict=True))))
    assert [check.passes for check in outcome.checks[:3]] == [True, True, True]
    assert [check.estimate.value for check in outcome.checks[:3]] == pytest.approx([0.5, -0.5, 3.5])
    assert outcome.rows[1][:3] == [SHUFFLED, "50.6 ± 0.1", "+0.50"]
    assert "by +1.0 points where it comes before the shuffle, by -2.5 where it comes after" in outcome.notes[0]
    worse = measure(runs_of(records, dict(zip(NAMES, (50.0, 45.0, 52.0, 54.0, 53.0), strict=True))))
    assert [check.passes for check in worse.checks[:3]] == [False, False, False]
    assert verdict_of(worse.checks) is not Verdict.holds
    # In between nothing is decided: 1.4 points with a spread that reaches over the margin.
    unsure = runs_of(records, dict(zip(NAMES, (50.0, 51.6, 52.0, 52.0, 50.6), strict=True)))
    assert [check.passes for check in measure(unsure).checks[:3]] == [False, True, False]


def test_weights_put_back_vary_as_smoothly_as_those_that_were_never_shuffled(records: dict[str, RunRecord]) -> None:
    outcome = measure(runs_of(records, dict.fromkeys(NAMES, 50.0)))
    _, _, back, shuffled = (check.estimate for check in outcome.checks[1:])
    plain = outcome.picture.panels[2].series[0].y
    assert abs(shuffled.value) < 0.1
    assert plain[0] > 0.2
    assert abs(back.value) < 0.15
    # The other way round, weights that nobody shuffled are "put back" as they are, and those that were are noise.
    swapped = {"plain": records["shuffled"], "shuffled": records["plain"]}
    swapped_checks = measure(runs_of(swapped, dict.fromkeys(NAMES, 50.0))).checks[3:]
    assert [check.passes for check in swapped_checks] == [False, False]


def test_the_whole_outcome_can_be_drawn(records: dict[str, RunRecord], tmp_path: Path) -> None:
    picture = measure(runs_of(records, dict.fromkeys(NAMES, 50.0))).picture
    save_plot(tmp_path / "figure.png", picture.panels, title=picture.title, caption=picture.caption)
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert "n = 3 seeds (0 to 2)" in picture.caption
