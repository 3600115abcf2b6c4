"""The command on a card, composed again, gives the choices that it was spelled from."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from data_prep.card.command import command_of
from data_prep.config import PREPARE_SCHEMAS
from data_prep.prepare import choices_of
from pipeline.compose import compose

FOLDER = ("source=folder", "source.root=pets", "layout=packed")


def config_of(options: list[str]) -> Any:
    return compose("prepare", PREPARE_SCHEMAS, options)


@pytest.mark.parametrize(
    "options",
    [
        FOLDER,
        ("source=synthetic", "source.samples=7", "layout=packed", "layout.resolution=64", "layout.channels=grey"),
        ("source=idx", "source.root='my files'", "layout=encoded", "layout.exif_orientation=true", "seed=5"),
        ("source=cifar10", "source.root='a=b,c'", "layout=packed", "layout.fit=stretch"),
        ("source=folder", "source.root='1e3'", "layout=encoded"),
        ("source=idx", "layout=packed", "classes=[8,'3 or 5',no]"),
        ("source=folder", "source.root='null'", "layout=encoded"),
    ],
)
def test_the_command_makes_the_same_choices(options: tuple[str, ...]) -> None:
    config = config_of([*options, "out=FOLDER"])
    command = command_of(choices_of(config), num_rejected=3)
    assert command is not None
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "data_prep"]
    again = config_of(words[3:])
    assert choices_of(again) == choices_of(config)
    assert (again.max_rejected, again.out) == (3, "FOLDER")


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20))
def test_any_path_survives(root: str) -> None:
    choices = {"source": {"kind": "folder", "root": root}, "layout": {"kind": "packed"}, "seed": 0}
    command = command_of(choices, num_rejected=0)
    assert command is not None
    assert "max_rejected" not in command
    override = OverridesParser.create().parse_override(shlex.split(command)[4])
    assert (override.key_or_group, override.value()) == ("source.root", root)


@pytest.mark.parametrize(
    "provenance", [{}, {"source": "x", "layout": {}}, {"source": {"kind": "webdataset?"}, "layout": {"kind": "packed"}}]
)
def test_what_was_not_prepared_has_no_command(provenance: dict[str, Any]) -> None:
    assert command_of(provenance, num_rejected=0) is None
