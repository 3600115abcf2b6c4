"""The command of the coordinate check: its table and plot, through training's own model and optimiser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from pipeline.compose import compose
from pipeline.coord_check import change_slopes, main, measure
from pipeline.coord_check_config import COORD_CHECK_SCHEMAS, CoordCheckConfig
from pipeline.model.coordinates import LOGITS
from pipeline.shards.errors import UserError

pytest.importorskip("matplotlib", reason="the plot needs matplotlib")

SMALL = ["image_shape=[4,4,3]", "widths=[32,64,128,256]", "batch_size=32", "seeds=2"]


def config_of(*options: str) -> CoordCheckConfig:
    config: CoordCheckConfig = compose("coord_check", COORD_CHECK_SCHEMAS, [*SMALL, *options])
    return config


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["optimizer=adamw", "optimizer.rate=0.001"],
        ["optimizer=sgd", "optimizer.rate=0.02"],
        ["optimizer=lion", "optimizer.rate=0.001"],
        ["optimizer=muon", "optimizer.rate=0.001"],
        ["optimizer=muon", "optimizer.rate=0.01", "optimizer.match_adamw=false", "optimizer.adamw_rate_scale=0.1"],
        ["model=bottleneck_mlp", "model.depth=2", "optimizer=adamw", "optimizer.rate=0.001"],
    ],
)
def test_trainings_own_optimizers_keep_the_change_with_a_base_width_and_not_without(options: list[str]) -> None:
    config = config_of(*options)
    curves = measure(config)
    standard, transferred = (change_slopes(config, curves, name) for name in ("standard", "muP"))
    assert standard[LOGITS] > 0.4, standard
    assert max(map(abs, transferred.values())) < 0.15, transferred


def test_the_command_prints_a_row_a_layer_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "check.png"
    assert main([*SMALL, "widths=[8,16]", "seeds=1", "steps=1", f"out={out}"]) == 0
    printed = capsys.readouterr().out
    for layer in ("0.linear", "1.linear", LOGITS):
        assert re.search(rf"^{layer} +([+-]\d+\.\d\d +){{3}}[+-]\d+\.\d\d$", printed, re.MULTILINE), printed
    assert re.search(r"^steepest change: standard \d\.\d\d, muP \d\.\d\d ", printed, re.MULTILINE), printed
    assert f"plot        {out}" in printed
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["model=logistic_regression"], "has no width"),
        (["model.hidden=[8]"], "model.hidden: null wanted"),
        (["widths=[8]"], "at least two"),
        (["widths=[8,8]"], "at least two"),
        (["steps=0"], "steps=0: at least 1"),
    ],
)
def test_what_cannot_be_checked_is_refused(options: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        measure(config_of(*options))
