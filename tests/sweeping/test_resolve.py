"""A run's config spelt out as options: nothing is lost, and no preset is needed to read it again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import compose as compose_module
from pipeline.compose import compose, to_plain
from pipeline.config import TRAIN_SCHEMAS, TrainConfig
from pipeline.shards.errors import UserError
from pipeline.sweeping.resolve import check_explicit, explicit_options, identity, resolve
from tiny_data import ROOT

PRESETS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
CHOICES = [
    f"{path.parent.name}={path.stem}"
    for name in TRAIN_SCHEMAS
    if "/" in name and (path := ROOT / "conf" / f"{name}.yaml").is_file()
]


def composed_again(config: TrainConfig) -> TrainConfig:
    again: TrainConfig = compose("train", TRAIN_SCHEMAS, explicit_options(config))
    return again


@pytest.mark.parametrize("option", [*CHOICES, *(f"experiment={preset}" for preset in PRESETS)])
def test_every_choice_and_preset_survives_its_options(option: str) -> None:
    # A preset may name its folder; a sweep names its runs' folders itself.
    config = dataclasses.replace(resolve([option]), run_dir=None)
    assert composed_again(config) == config
    check_explicit(config)


@settings(max_examples=15)
@given(
    text=st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(
        lambda text: "${" not in text and not text.endswith("\\") and "\\'" not in text and text != "???"
    ),
    rate=st.floats(0, 1e300, allow_nan=False),
    widths=st.lists(st.integers(1, 10**9), min_size=1, max_size=4),
)
def test_any_text_number_and_list_survives(text: str, rate: float, widths: list[int]) -> None:
    config = resolve(["model=mlp"])
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, path=text),
        optimizer=dataclasses.replace(config.optimizer, rate=rate),
        model=dataclasses.replace(config.model, hidden=widths),  # type: ignore[call-arg]
    )
    assert composed_again(config) == config


@pytest.mark.parametrize("stream", ["a.tar", ["a.tar", "pipe:cat 'b c.tar'"], "s3://x/{000..146}.tar"])
def test_values_of_any_type_survive(stream: Any) -> None:
    config = resolve(["data.path=x"])
    data = dataclasses.replace(
        config.data,
        stream=stream,
        stream_classes=3,
        stream_samples_per_epoch=5,
        val_stream="v.tar",
        val_stream_samples=2,
    )
    assert composed_again(dataclasses.replace(config, data=data)).data == data


def test_what_cannot_be_spelt_is_refused_and_not_changed_in_silence() -> None:
    config = resolve([])
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, path="${seed}"))
    with pytest.raises(UserError):
        check_explicit(config)


def test_a_preset_that_is_edited_later_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve(["experiment=cifar10_mlp"])
    options = explicit_options(config)
    conf = tmp_path / "conf"
    for path in (ROOT / "conf").rglob("*.yaml"):
        copy = conf / path.relative_to(ROOT / "conf")
        copy.parent.mkdir(parents=True, exist_ok=True)
        # Presets are gone, and defaults are others.
        if path.parent.name != "experiment":
            copy.write_text(path.read_text().replace("order: full", "order: window"))
    (conf / "experiment").mkdir(exist_ok=True)
    monkeypatch.setattr(compose_module, "CONF_FOLDER", conf)
    assert compose("train", TRAIN_SCHEMAS, []).order != config.order
    assert compose("train", TRAIN_SCHEMAS, options) == config


def test_folders_are_not_for_the_user_to_give_and_no_part_of_what_a_run_is() -> None:
    for option in ("run_dir=x", "resume=true"):
        with pytest.raises(UserError, match="folders are given here"):
            resolve([option])
    config = resolve(["seed=3"])
    assert identity(dataclasses.replace(config, run_dir="x", resume=True)) == identity(config)
    assert identity(resolve(["seed=4"])) != identity(config)
    assert to_plain(config)["seed"] == identity(config)["seed"] == 3
