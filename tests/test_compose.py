"""The commands' options: what is refused, and how it is told."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from data_prep.config import PREPARE_SCHEMAS, VERIFY_SCHEMAS, PrepareConfig
from pipeline.card_config import CARD_SCHEMAS
from pipeline.compose import (
    Schemas,
    _compose_whole,
    compose,
    compose_tree,
    first_difference,
    help_text,
    to_plain,
)
from pipeline.config import TRAIN_SCHEMAS
from pipeline.coord_check_config import COORD_CHECK_SCHEMAS
from pipeline.evaluate_config import EVALUATE_SCHEMAS
from pipeline.export_config import EXPORT_SCHEMAS
from pipeline.inspect_config import INSPECT_SCHEMAS
from pipeline.plan_config import PLAN_SCHEMAS
from pipeline.predict_config import PREDICT_SCHEMAS
from pipeline.report_config import COMPARE_SCHEMAS, REPORT_SCHEMAS
from pipeline.shards.errors import UserError
from pipeline.sweep_config import BATCH_FINDER_SCHEMAS, RATE_TEST_SCHEMAS, SWEEP_SCHEMAS
from pipeline.sync_config import SYNC_SCHEMAS
from tiny_data import ROOT, run_module

COMMANDS: dict[str, Schemas] = {
    "prepare": PREPARE_SCHEMAS,
    "verify": VERIFY_SCHEMAS,
    "train": TRAIN_SCHEMAS,
    "evaluate": EVALUATE_SCHEMAS,
    "predict": PREDICT_SCHEMAS,
    "export": EXPORT_SCHEMAS,
    "model_card": CARD_SCHEMAS,
    "plan": PLAN_SCHEMAS,
    "inspect": INSPECT_SCHEMAS,
    "report": REPORT_SCHEMAS,
    "compare": COMPARE_SCHEMAS,
    "coord_check": COORD_CHECK_SCHEMAS,
    "sweep": SWEEP_SCHEMAS,
    "rate_test": RATE_TEST_SCHEMAS,
    "batch_finder": BATCH_FINDER_SCHEMAS,
    "sync": SYNC_SCHEMAS,
}
REFUSED = [
    ("prepare", "sead=1", "'sead'.*did you mean seed"),
    ("prepare", "layout.resolutoin=8", "resolutoin.*did you mean layout.resolution"),
    ("prepare", "source.classes=3", "source.classes"),
    ("prepare", "source=foldr", "source=foldr: no such choice; there are .*, folder,"),
    ("prepare", "engine=ray9", "engine=ray9: no such choice; there are local"),
    ("prepare", "seed=many", "seed.*many"),
    ("prepare", "seed=1.5", "seed.*1.5"),
    ("prepare", "layout.fit=squeeze", "fit.*squeeze"),
    ("prepare", "max_rejected=-1", "max_rejected=-1: at least 0 wanted"),
    ("prepare", "layout.resolution=0", "layout.resolution=0: 1 to 65535 wanted"),
    ("prepare", "layout.resolution=8,9", "resolution"),
    ("prepare", "layout.shard_bytes=0", "layout.shard_bytes=0"),
    ("prepare", "layout.max_pixels=999999999", "layout.max_pixels=999999999: 1 to 178956970"),
    ("prepare", "engine.workers=0", "engine.workers=0: at least 1"),
    ("prepare", "out=a=b", "out=a=b: not of the form name=value"),
    ("prepare", "seed", "seed: not of the form"),
    ("prepare", "=", "=: not of the form"),
    ("prepare", "+new=1", "not of the form"),
    ("prepare", "++seed=1", "not of the form"),
    ("prepare", "~seed", "not of the form"),
    ("prepare", "~seed=0", "not of the form"),
    ("prepare", "out=???", "out is needed: add out=..."),
    ("prepare", "source=null", "must be a string"),
    ("verify", "decode=1", "path is needed: add path=..."),
    ("verify", "decode=-1", "path is needed"),
    ("train", "modle=mlp", "modle"),
    ("train", "batch.siez=3", "batch.siez.*did you mean batch.size"),
    ("train", "experiment=nothing", "no such choice"),
    ("train", "trainer.max_epochs=x", "max_epochs"),
    ("train", "logger=tensorbord", "no such choice; there are none, tensorboard, wandb"),
    ("train", "logger.mode=on", "logger.mode"),
    ("train", "seed=range(1,3)", r"Sweep parameters 'seed=range\(1,3\)'"),
    ("train", "seed=1,2", "Ambiguous value for argument 'seed=1,2'"),
    ("train", "logger.finish_s=-1", "logger.finish_s=-1.0: seconds wanted, 0 or more"),
]


@pytest.mark.parametrize(("root", "option", "told"), REFUSED)
def test_a_wrong_option_is_refused_in_one_line(root: str, option: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        compose(root, COMMANDS[root], [option])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_an_option_of_a_group_goes_with_its_choice() -> None:
    config: PrepareConfig = compose("prepare", PREPARE_SCHEMAS, ["source=folder", "source.root=a b", "layout=encoded"])
    assert to_plain(config)["source"] == {"root": "a b", "val_frac": 0.1}
    assert "decode_check" in to_plain(config)["layout"]
    with pytest.raises(UserError, match=r"source\.root is needed"):
        compose("prepare", PREPARE_SCHEMAS, ["source=folder"])


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["data.path=x", "model=mlp", "model.hidden=[16, 8]", "seed=3", "model.hidden=[4]"],
        [
            "model.depth=3",
            "model=bottleneck_mlp",
            "order=window",
            "optimizer=lion",
            "schedule.warmup={value:3,unit:steps}",
        ],
        ["experiment=cifar10_mlp", "trainer.max_epochs=2", "logger=none", "data.path='a=b c'", "batch.micro_size=null"],
    ],
)
def test_what_is_kept_of_groups_changes_nothing_of_what_is_composed(options: list[str]) -> None:
    """Hydra's own composition of everything at once is the oracle, also for a second time, after other values."""
    whole = _compose_whole("train", TRAIN_SCHEMAS, options)
    for _ in range(2):
        assert OmegaConf.to_container(compose_tree("train", TRAIN_SCHEMAS, options)) == OmegaConf.to_container(whole)
        compose_tree("train", TRAIN_SCHEMAS, [*options, "seed=77", "trainer.clip_norm=0.125"])


def leaves(schema: type[Any]) -> set[str]:
    """Return the help text of each option of a schema, groups and nested dataclasses included."""
    return {field.metadata["help"] for field in dataclasses.fields(schema) if "help" in field.metadata}


@pytest.mark.parametrize("root", COMMANDS)
def test_help_lists_every_option_with_its_meaning(root: str) -> None:
    schemas = COMMANDS[root]
    text = help_text(root, schemas, summary="What it does.")
    assert text.startswith("What it does.\n")
    for name, schema in schemas.items():
        group, _, choice = name.partition("/")
        if choice:
            assert f"  {group}={choice}\n" in text
        for meaning in leaves(schema):
            assert meaning in text
        for field in dataclasses.fields(schema):
            prefix = f"{group}." if choice else ""
            assert f"{prefix}{field.name}=" in text or f"{field.name}." in text or f"{field.name}=" in text


PRESETS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes_and_states_its_claim(preset: str) -> None:
    config = compose("train", TRAIN_SCHEMAS, ["data.path=x", f"experiment={preset}"])
    assert first_difference(to_plain(compose("train", TRAIN_SCHEMAS, ["data.path=x"])), to_plain(config)) is not None
    header = (ROOT / "conf" / "experiment" / f"{preset}.yaml").read_text()
    for word in ("# Purpose: ", "# Expected: ", "# Hardware", f'# Command: make train ARGS="experiment={preset}'):
        assert word in header


def test_differences_name_the_first_field() -> None:
    old = {"a": {"b": 1, "c": [1]}, "d": None}
    assert first_difference(old, {"a": {"b": 1, "c": [1]}, "d": None}) is None
    assert first_difference(old, {"a": {"b": 1, "c": [2]}, "d": None}) == ("a.c", [1], [2])
    assert first_difference(old, {"a": {"b": 1, "c": [1]}, "d": None, "e": 3}) == ("e", None, 3)
    assert first_difference(old, {"a": {"b": 1, "c": [1], "d": 3}}) == ("a.d", None, 3)
    assert first_difference({"a": 1, "b": 2}, {"a": 1}) == ("b", 2, None)


@pytest.mark.parametrize("options", [["sead=1"], ["source=folder"], ["source=folder", "source.root=nowhere"]])
def test_the_command_ends_with_2_and_one_line_and_makes_nothing(tmp_path: Path, options: list[str]) -> None:
    out = tmp_path / "new" / "set"
    ended = run_module("data_prep", f"out={out}", *options)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["data_prep", "data_prep.verify"])
def test_help_is_printed_and_nothing_done(module: str) -> None:
    ended = run_module(module, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "=" in ended.stdout


def test_importing_the_commands_has_no_effect(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("data_prep.__main__", "data_prep.verify"):
        importlib.reload(importlib.import_module(name))
    assert capsys.readouterr() == ("", "")
