"""Plots: what is drawn is what was given, and the same numbers give the same bytes. A person looks at the looks."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backend_bases import MouseEvent
from PIL import Image

from pipeline.track.plots import MARKERS, PALETTE, Axis, Field, Mark, Panel, Series, draw_plot, save_plot, seeds_text

X, Y = [0.001, 0.01, 0.1], [40.0, 45.0, 42.0]
PANEL = Panel(
    x=Axis(label="learning rate", log=True),
    y=Axis(label="accuracy", unit="%"),
    series=[
        Series(x=X, y=Y, low=[39, 44, 41], high=[41, 46, 43], label="SGD"),
        Series(x=X, y=[30, math.nan, 31], label="AdamW", low=[29, 0, 30], high=[31, 0, 32], markers=False),
    ],
    marks=[Mark(x=0.01, label="suggested"), Mark(y=44, label="before")],
)


def test_the_same_numbers_give_the_same_bytes_whatever_a_user_has_set(tmp_path: Path) -> None:
    save_plot(tmp_path / "a.png", [PANEL], title="T", caption="n = 1 seed (0)")
    with matplotlib.rc_context(
        {"axes.grid": False, "font.size": 20, "lines.dash_capstyle": "round", "axes.labelpad": 20}
    ):
        before = dict(matplotlib.rcParams)
        save_plot(tmp_path / "b.png", [PANEL], title="T", caption="n = 1 seed (0)")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
    picture = Image.open(tmp_path / "a.png")
    assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10


def test_axes_carry_labels_units_and_scales_and_the_caption_stands_below() -> None:
    figure = draw_plot([PANEL], title="Rates", caption="n = 3 seeds (0 to 2)")
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning rate", "accuracy (%)")
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert figure.get_supxlabel() == "n = 3 seeds (0 to 2)"
    assert figure.get_suptitle() == "Rates"
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["SGD", "AdamW"]


def test_series_are_drawn_at_their_points_and_differ_by_more_than_colour() -> None:
    figure = draw_plot([PANEL], title="", caption="c")
    first, second = figure.axes[0].get_lines()[:2]
    np.testing.assert_array_equal(first.get_xydata(), np.column_stack([X, Y]))
    assert np.isnan(np.asarray(second.get_ydata(), dtype=float)).tolist() == [False, True, False]
    many = Panel(x=Axis(label="x"), y=Axis(label="y"), series=[Series(x=[1.0], y=[1.0]) for _ in PALETTE])
    lines = draw_plot([many], title="", caption="c").axes[0].get_lines()
    assert len({line.get_color() for line in lines}) == len(PALETTE)
    assert len({line.get_marker() for line in lines}) == len(MARKERS)


def test_a_field_lies_behind_the_series_the_right_way_up_with_its_scale() -> None:
    field = Field(values=[[0.0, 0.25], [0.5, 1.0]], extent=(0, 2, 10, 30), label="share", limits=(-1.0, 1.0))
    panel = Panel(x=Axis(label="x"), y=Axis(label="y"), series=[Series(x=[1.0], y=[20.0])], field=field)
    axes, scale = draw_plot([panel], title="", caption="c").axes
    (image,) = axes.get_images()
    assert [image.get_cursor_data(_event_at(axes, x, y)) for x, y in ((0.5, 15), (1.5, 15), (0.5, 25))] == [
        0,
        0.25,
        0.5,
    ]
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 2), (10, 30))
    assert (scale.get_ylabel(), scale.get_ylim()) == ("share", (-1, 1))
    assert image.get_zorder() < axes.get_lines()[0].get_zorder()


def _event_at(axes: Axes, x: float, y: float) -> MouseEvent:
    return MouseEvent("motion_notify_event", axes.figure.canvas, *axes.transData.transform((x, y)))


def test_ordered_series_go_from_dark_to_light() -> None:
    """So they keep their order in grey, too: the luminance of ITU-R BT.709."""
    panel = Panel(x=Axis(label="x"), y=Axis(label="y"), series=[Series(x=[1.0], y=[1.0])] * 5, ordered=True)
    colours = [line.get_color() for line in draw_plot([panel], title="", caption="c").axes[0].get_lines()]
    light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b, _ in colours]
    assert light == sorted(light)
    assert min(np.diff(light)) > 0.05


def test_named_places_are_ticks_and_panels_stand_side_by_side() -> None:
    named = Panel(
        x=Axis(label="model", ticks={0.0: "mlp", 1.0: "bottleneck_mlp"}, limits=(-0.5, 1.5)),
        y=Axis(label="y", limits=(0, None)),
        series=[Series(x=[0, 1], y=[1, 2])],
    )
    figure = draw_plot([named] * 4, title="T", caption="c")
    assert len(figure.axes) == 4
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["mlp", "bottleneck_mlp"]
    assert figure.axes[0].get_ylim()[0] == 0
    assert figure.axes[0].get_xlim() == (-0.5, 1.5)


def test_values_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="y: 1 values for 2"):
        Series(x=[1, 2], y=[1])
    with pytest.raises(ValueError, match="come together"):
        Series(x=[1], y=[1], low=[1])
    with pytest.raises(ValueError, match="either x or y"):
        Mark(label="m")
    with pytest.raises(ValueError, match="at least one"):
        draw_plot([], title="", caption="")


@pytest.mark.parametrize(
    ("seeds", "text"),
    [
        ([0, 1, 2], "n = 3 seeds (0 to 2)"),
        ([4, 9], "n = 2 seeds (4, 9)"),
        ([7], "n = 1 seed (7)"),
        ([1, 0], "n = 2 seeds (0, 1)"),
        ([0, 1, 3], "n = 3 seeds (0, 1, 3)"),
    ],
)
def test_seeds_are_counted_and_named(seeds: list[int], text: str) -> None:
    assert seeds_text(seeds) == text


def test_names_that_are_the_same_in_all_panels_stand_once_beside_them() -> None:
    other = Panel(x=PANEL.x, y=PANEL.y, series=[Series(x=X, y=Y, label="Lion")])
    same = draw_plot([PANEL, PANEL], title="T", caption="")
    assert [text.get_text() for text in same.legends[0].get_texts()] == ["SGD", "AdamW"]
    assert [axes.get_legend() for axes in same.axes] == [None, None]
    different = draw_plot([PANEL, other], title="T", caption="")
    assert different.legends == []
    assert all(axes.get_legend() is not None for axes in different.axes)
