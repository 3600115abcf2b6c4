"""Curves can be told apart by their colours, by colour-blind eyes too, and stand out from the page."""

from __future__ import annotations

import itertools
import re

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.track.report.chart_panel import NUM_COLOURS
from pipeline.track.report.page import assets

# What is left of linear RGB without one kind of cone: Machado, Oliveira and Fernandes 2009, severity 1.
EYES = {
    "all cones": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
# CIE 1931 of linear sRGB, by its white.
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
XYZ /= XYZ.sum(axis=1, keepdims=True)
# A difference of about 2.3 is just noticed (CIE 1976); the eight colours of Okabe and Ito are at least 16 apart.
LEAST_DIFFERENCE = 10.0
# Of what is drawn against the page: WCAG 2.1, 1.4.11.
LEAST_CONTRAST = 3.0


def named(name: str, *, dark: bool) -> npt.NDArray[np.float64]:
    """Return a colour of the report's style sheet, in linear RGB."""
    found = re.findall(rf"--{name}: #(\w{{6}})", assets()[0])
    assert len(found) == 2, "one for light, then one for dark"
    values = np.array([int(found[dark][place : place + 2], 16) for place in (0, 2, 4)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(linear: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    x, y, z = np.cbrt(XYZ @ linear.clip(0, 1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("eyes", EYES)
def test_any_two_colours_differ_clearly(eyes: str, dark: bool) -> None:
    seen = [lab(np.asarray(EYES[eyes]) @ named(f"c{number}", dark=dark)) for number in range(NUM_COLOURS)]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > LEAST_DIFFERENCE


@pytest.mark.parametrize("dark", [False, True])
def test_every_colour_stands_out_from_the_panel(dark: bool) -> None:
    panel = XYZ[1] @ named("panel", dark=dark)
    for number in range(NUM_COLOURS):
        low, high = sorted((panel, XYZ[1] @ named(f"c{number}", dark=dark)))
        assert (high + 0.05) / (low + 0.05) > LEAST_CONTRAST, number
