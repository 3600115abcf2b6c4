"""What a node must have before it builds a shard; `another node` is this one with something changed."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path

import pytest

from data_prep.config import PREPARE_SCHEMAS, PrepareConfig
from data_prep.engines import nodes
from data_prep.engines.nodes import check_node, travelling
from data_prep.prepare import choices_of
from pipeline.compose import compose
from pipeline.shards.errors import UserError
from pipeline.shards.publish import publish_json
from tiny_data import write_pictures

NODE = socket.gethostname()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PrepareConfig:
    """A preparation with relative paths, of which the plan is made."""
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pets", num_each=2)
    config: PrepareConfig = compose("prepare", PREPARE_SCHEMAS, ["source=folder", "source.root=pets", "out=set"])
    (tmp_path / "set" / "plan").mkdir(parents=True)
    publish_json(tmp_path / "set" / "plan" / "plan.json", {"choices": choices_of(config), "splits": {}})
    return config


def test_relative_paths_hold_from_another_working_folder(
    config: PrepareConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = travelling(config)
    monkeypatch.chdir("/")
    check_node(away)
    assert away.config.out == str(tmp_path / "set")
    assert away.config.source.root == str(tmp_path / "pets")  # type: ignore[attr-defined]
    assert config.out == "set"


def test_urls_stay_as_they_are(config: PrepareConfig) -> None:
    source = dataclasses.replace(config.source, root="s3://bucket/pets")  # type: ignore[call-arg]
    away = travelling(dataclasses.replace(config, source=source))
    assert away.config.source.root == "s3://bucket/pets"  # type: ignore[attr-defined]


def test_a_node_without_the_output_is_named(config: PrepareConfig, tmp_path: Path) -> None:
    away = travelling(config)
    (tmp_path / "set").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"node {NODE}: out={tmp_path}/set is not there"):
        check_node(away)


def test_a_node_with_another_folder_of_that_name_is_named(config: PrepareConfig, tmp_path: Path) -> None:
    away = travelling(config)
    publish_json(tmp_path / "set" / "plan" / "plan.json", {"choices": choices_of(config), "splits": {"train": "0"}})
    with pytest.raises(UserError, match=f"node {NODE}: out=.* is another one there"):
        check_node(away)


def test_a_node_without_the_source_is_named(config: PrepareConfig, tmp_path: Path) -> None:
    away = travelling(config)
    (tmp_path / "pets").rename(tmp_path / "elsewhere")
    nodes.opened_source(config=dataclasses.replace(config, source=_other_source()))  # what was open is open no more
    with pytest.raises(UserError, match=f"node {NODE}: source.root={tmp_path}/pets: no such folder"):
        check_node(away)


def _other_source() -> object:
    return compose("prepare", PREPARE_SCHEMAS, ["source=synthetic", "source.samples=10"]).source


def test_a_node_with_another_version_is_named(config: PrepareConfig, tmp_path: Path) -> None:
    choices = choices_of(config)
    choices["versions"]["pillow"] = "1.1.7"
    publish_json(tmp_path / "set" / "plan" / "plan.json", {"choices": choices, "splits": {}})
    with pytest.raises(UserError, match=rf"node {NODE}: has pillow .*, the plan was made with 1\.1\.7"):
        check_node(travelling(config))
