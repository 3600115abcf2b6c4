"""One door from the command line to checked dataclasses: Hydra composes, OmegaConf checks, Hydra stops here.

    config = compose("train", TRAIN_SCHEMAS, ["model=mlp", "batch.size=512"])   # a TrainConfig, all the way down

Every option has a dataclass schema, so a misspelt one is refused; every refusal is one line with the nearest
right name. After this door only dataclasses travel.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import MISSING as MISSING  # what an option without a default has; schemas take it from here
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.shards.errors import UserError

CONF_FOLDER = Path(__file__).resolve().parent.parent / "conf"

PLAIN_OVERRIDE = re.compile(r"[A-Za-z_][\w./]*=")
NOT_PLAIN = "not of the form name=value (a value with = or spaces wants quotes: 'name=\"a=b\"')"

# Keys are "root" for the root's own schema and "group/option" for each option of each group.
Schemas = Mapping[str, type[Any]]


def compose(root: str, schemas: Schemas, overrides: list[str]) -> Any:
    """Compose `conf/<root>.yaml` with command-line overrides and return its dataclass.

    Raises:
        UserError: an unknown option, a value of the wrong type or out of range, or a value that is needed.
    """
    tree = compose_tree(root, schemas, overrides)
    if missing := sorted(OmegaConf.missing_keys(tree)):
        raise UserError(f"{missing[0]} is needed: add {missing[0]}=... (see --help)")
    try:
        return OmegaConf.to_object(tree)
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(_one_line(error)) from None


def compose_tree(root: str, schemas: Schemas, overrides: list[str]) -> DictConfig:
    """Compose without the final conversion; for printing. Raises UserError as `compose` does."""
    for override in overrides:
        # Hydra's own signs for adding and removing options would get round the schema.
        if not PLAIN_OVERRIDE.match(override):
            raise UserError(f"{override}: {NOT_PLAIN}")
    try:
        return _compose_tree(root, schemas, overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(_one_line(error) + _nearest(error, root, schemas, overrides)) from None


def to_plain(config: Any) -> Any:
    """Return a config dataclass as plain dicts, lists and scalars; enums by name."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Enum):
        return config.name
    if isinstance(config, Mapping):
        return {str(key): to_plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_plain(value) for value in config]
    return config


def from_plain(schema: type[Any], values: Mapping[str, Any]) -> Any:
    """Return a config dataclass from what `to_plain` gave, which may come from a file.

    Raises:
        UserError: a field that the schema does not have, or a value that is not of its type or in its range.
    """
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), dict(values)))
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(_one_line(error)) from None


def first_difference(old: Any, new: Any, *, path: str = "") -> tuple[str, Any, Any] | None:
    """Return (dotted name, old value, new value) of the first field in which two plain trees differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            name = f"{path}.{key}" if path else key
            if found := first_difference(old.get(key), new.get(key), path=name):
                return found
        return None
    return None if old == new else (path, old, new)


def help_text(root: str, schemas: Schemas, *, summary: str) -> str:
    """Return the text of --help: every option with its default and meaning, by group."""
    groups = sorted({name.split("/")[0] for name in schemas if "/" in name})
    tree = compose_tree(root, schemas, [])
    lines = [summary, "", "Options are typed as name=value; groups as group=choice.", ""]
    for name, default, meaning in _options(schemas["root"], tree):
        if name.split(".")[0] not in groups:
            lines.append(_option_line(name, default, meaning))
    choices_of = {group: sorted(path.stem for path in (CONF_FOLDER / group).glob("*.yaml")) for group in groups}
    # The first of each group together, then the second, and so on: one group's options are not another's.
    rounds = zip_longest(*([f"{group}={choice}" for choice in choices] for group, choices in choices_of.items()))
    trees = [compose_tree(root, schemas, [choice for choice in chosen if choice]) for chosen in rounds]
    for group, choices in choices_of.items():
        lines += ["", f"{group}={'|'.join(choices)}"]
        for choice, chosen in zip(choices, trees, strict=False):
            if (schema := schemas.get(f"{group}/{choice}")) is None:
                continue
            lines.append(f"  {group}={choice}")
            for name, default, meaning in _options(schema, chosen[group]):
                lines.append("  " + _option_line(f"{group}.{name}", default, meaning))
    return "\n".join(lines) + "\n"


def _compose_tree(root: str, schemas: Schemas, overrides: list[str]) -> DictConfig:
    """Compose each choice of groups once (it takes 0.1 s, and a sweep composes all its runs), and set the values there.

    What is refused Hydra refuses itself, which says why.
    """
    groups = {path.name for path in CONF_FOLDER.iterdir() if path.is_dir()}
    choices = tuple(override for override in overrides if re.split("[/=]", override)[0] in groups)
    try:
        values = OverridesParser.create().parse_overrides([item for item in overrides if item not in choices])
        if not any(value.is_sweep_override() for value in values):
            tree = copy.deepcopy(_composed_choices(root, tuple(schemas.items()), CONF_FOLDER, choices))
            for value in values:
                OmegaConf.update(tree, value.key_or_group, value.value(), merge=True)
            return tree
    except (HydraException, OmegaConfBaseException, ValueError):
        pass
    return _compose_whole(root, schemas, overrides)


@lru_cache(maxsize=64)
def _composed_choices(
    root: str, schemas: tuple[tuple[str, type[Any]], ...], folder: Path, choices: tuple[str, ...]
) -> DictConfig:
    return _compose_whole(root, dict(schemas), list(choices))


def _compose_whole(root: str, schemas: Schemas, overrides: list[str]) -> DictConfig:
    _register(root, schemas)
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(CONF_FOLDER), version_base="1.3"):
        return hydra_compose(config_name=root, overrides=overrides)


def _register(root: str, schemas: Schemas) -> None:
    store = ConfigStore.instance()
    for name, schema in schemas.items():
        if name == "root":
            store.store(name=f"{root}_schema", node=schema)
        else:
            group, option = name.split("/")
            store.store(group=group, name=f"{option}_schema", node=schema)


def _options(schema: type[Any], tree: Any, *, path: str = "") -> Iterator[tuple[str, Any, str]]:
    for field in dataclasses.fields(schema):
        name = path + field.name
        node = tree._get_node(field.name) if isinstance(tree, DictConfig) else None
        inner = OmegaConf.get_type(node) if node is not None else None
        if isinstance(node, DictConfig) and dataclasses.is_dataclass(inner):
            yield from _options(inner, node, path=f"{name}.")
            continue
        missing = node is None or OmegaConf.is_missing(tree, field.name)
        yield name, MISSING if missing else tree[field.name], field.metadata.get("help", "")


def _option_line(name: str, default: Any, meaning: str) -> str:
    if default is None:
        default = "null"
    elif isinstance(default, Enum):
        default = default.name
    elif isinstance(default, bool):
        default = str(default).lower()
    elif isinstance(default, ListConfig):
        default = str(list(default)).replace(" ", "")
    elif default == MISSING:
        default = "(needed)"
    return f"  {f'{name}={default}':<40} {meaning}".rstrip()


def _one_line(error: Exception) -> str:
    """Squeeze Hydra's and OmegaConf's paragraphs into one line, without their internals."""
    if isinstance(error, OverrideParseException):
        return f"{error.override}: {NOT_PLAIN}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        options = [option for option in error.options if not option.endswith("_schema")]
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return f"{group}={choice}: no such choice; there are {', '.join(options)}"
    texts = [str(error)] + ([str(error.__cause__)] if error.__cause__ and "merging override" in str(error) else [])
    lines = [text.strip().splitlines()[0] for text in texts if text.strip()]
    return re.sub(r"\s+", " ", ": ".join(lines)).replace("Error merging override ", "").rstrip(".")


def _nearest(error: Exception, root: str, schemas: Schemas, overrides: list[str]) -> str:
    """Suggest the option that was probably meant."""
    quoted = re.search(r"Could not override '([\w./]+)'", str(error))
    if quoted is None:
        return ""
    groups = [item for item in overrides if any(item.startswith(f"{name.split('/')[0]}=") for name in schemas)]
    try:
        tree = _compose_tree(root, schemas, [item for item in groups if quoted.group(1) not in item])
    except (HydraException, OmegaConfBaseException):
        return " (see --help)"
    names = list(_leaf_names(tree))
    near = difflib.get_close_matches(quoted.group(1), names, n=3, cutoff=0.6)
    return f" (did you mean {', '.join(near)}?)" if near else " (see --help)"


def _leaf_names(tree: DictConfig, path: str = "") -> Iterator[str]:
    for key in map(str, tree):
        yield f"{path}{key}"
        node = tree._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            yield from _leaf_names(node, f"{path}{key}.")


def require(condition: bool, message: str) -> None:
    """Refuse a value of a config: raise ValueError, which `compose` tells the user as one line."""
    if not condition:
        raise ValueError(message)
