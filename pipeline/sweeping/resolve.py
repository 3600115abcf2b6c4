"""From typed options to a checked config, once, and back to options that say all of it.

    config = resolve(["data.path=data/mnist", "experiment=mnist_mlp", "optimizer.rate=0.03"])
    explicit_options(config)        # ["order='full'", ..., "optimizer.rate=0.03", "schedule.warmup.unit='steps'", ...]

A run is started with every option spelt out, so what it does was decided here: it draws nothing, and a preset that is
edited while a sweep goes on changes none of the runs that are still to come.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

from pipeline.compose import compose, first_difference
from pipeline.config import GROUPS, TRAIN_SCHEMAS, TrainConfig, to_stored
from pipeline.shards.errors import UserError

# Not part of what a run is: its folder, and how it is gone on with.
PLACE_FIELDS = ("run_dir", "resume")


def resolve(options: Sequence[str]) -> TrainConfig:
    """Return the config of a training run.

    Raises:
        UserError: as training would have it; also for a folder, which the sweep gives.
    """
    for option in options:
        name = option.partition("=")[0]
        if name in PLACE_FIELDS:
            raise UserError(f"{option}: the runs' folders are given here; leave it out")
    config: TrainConfig = compose("train", TRAIN_SCHEMAS, list(options))
    return config


def identity(config: TrainConfig) -> dict[str, Any]:
    """Return what makes a run this run, as plain containers: its config without its folder."""
    stored = to_stored(config)
    for name in PLACE_FIELDS:
        stored.pop(name, None)
    return stored


def explicit_options(config: TrainConfig) -> list[str]:
    """Return options that compose to an equal config, whatever presets and defaults stand in conf/ by then.

    Raises:
        UserError: a value that cannot be spelt as an option.
    """
    options = [f"{group}={_choice(group, type(getattr(config, group)))}" for group in GROUPS]
    for field in dataclasses.fields(config):
        if field.name not in PLACE_FIELDS:
            options += _leaves(getattr(config, field.name), name=field.name)
    return options


def check_explicit(config: TrainConfig) -> None:
    """Make sure that `explicit_options` lose nothing of a config.

    Raises:
        UserError: a value that changes on its way through an option, with its name.
    """
    again = identity(compose("train", TRAIN_SCHEMAS, explicit_options(config)))
    if difference := first_difference(identity(config), again):
        name, wanted, got = difference
        raise UserError(f"{name}={wanted}: cannot be passed on as an option (it would become {got})")


def option_text(value: Any) -> str:
    """Return a value as Hydra's command line reads it; text is quoted, so that it stays text."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{option_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(option_text, value)) + "]"
    return "'" + str(value).replace("'", "\\'") + "'"


def _choice(group: str, schema: type[Any]) -> str:
    """Return a choice of a group that has this schema; which one does not matter, as each of its values is given."""
    for name, found in TRAIN_SCHEMAS.items():
        if found is schema and name.startswith(f"{group}/"):
            return name.removeprefix(f"{group}/")
    raise TypeError(f"no choice of {group} is a {schema.__name__}")


def _leaves(value: Any, *, name: str) -> Iterator[str]:
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _leaves(getattr(value, field.name), name=f"{name}.{field.name}")
    else:
        yield f"{name}={option_text(value)}"
