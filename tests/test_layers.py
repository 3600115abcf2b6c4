"""Who may import whom, read from the source text, so that imports inside functions count too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PIPELINE = sorted((ROOT / "pipeline").rglob("*.py"))
DATA_PREP = sorted((ROOT / "data_prep").rglob("*.py"))
# Lower layers know nothing of higher ones; parts of one layer may use each other. What is not named is an entry point.
LAYERS = {
    "native": 0,
    "shards": 0,
    "storage": 1,
    "data": 1,
    "model": 1,
    "training": 1,
    "track": 1,
    "compose": 2,
    "config": 2,
    "data_config": 2,
    "init_config": 2,
    "logger_config": 2,
    "model_config": 2,
    "objective_config": 2,
    "optimizer_config": 2,
    "track_config": 2,
    "trainer_config": 2,
    "world": 2,
    "build": 3,
    "build_data": 3,
    "build_order": 3,
    "build_model": 3,
    "build_objective": 3,
    "build_optimizer": 3,
    "build_trainer": 3,
}
ENTRY_LAYER = 4
CONFIG_TREE = {"compose", "config", "run_folder", "sweep_config"}


def imports(path: Path) -> Iterator[str]:
    """Yield the full dotted name of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield f"{node.module}"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def layer_of(module: str) -> int:
    return LAYERS.get(module, ENTRY_LAYER)


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "pipeline").with_suffix("").parts[0]


@pytest.mark.parametrize("path", PIPELINE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_imports_a_higher_layer(path: Path) -> None:
    allowed = layer_of(part_of(path))
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "pipeline" and len(parts) > 1:
            assert layer_of(parts[1]) <= allowed, f"{path} imports {name}"
        assert parts[0] != "data_prep", f"{path} imports {name}"


def test_the_format_needs_the_standard_library_and_numpy_alone() -> None:
    for path in (ROOT / "pipeline" / "shards").rglob("*.py"):
        for name in imports(path):
            top = name.split(".")[0]
            assert top in sys.stdlib_module_names | {"numpy"} or name.startswith("pipeline.shards"), f"{path}: {name}"


def test_preparation_uses_the_format_and_the_command_line_alone() -> None:
    for path in DATA_PREP:
        for name in imports(path):
            assert name.split(".")[0] not in ("torch", "pytorch_lightning", "lightning"), f"{path}: {name}"
            if name.startswith("pipeline"):
                assert name.startswith(("pipeline.shards", "pipeline.compose", "pipeline.storage")), f"{path}: {name}"


def test_models_know_torch_and_not_lightning() -> None:
    for path in (ROOT / "pipeline" / "model").rglob("*.py"):
        assert not any("lightning" in name for name in imports(path)), path


def test_config_trees_stay_at_the_door() -> None:
    for path in PIPELINE:
        if part_of(path) not in CONFIG_TREE:
            assert not any(name.split(".")[0] in ("hydra", "omegaconf") for name in imports(path)), path
    for path in DATA_PREP:
        if path.name != "config.py":
            assert not any(name.split(".")[0] in ("hydra", "omegaconf") for name in imports(path)), path


def test_importing_the_package_does_nothing() -> None:
    assert (ROOT / "pipeline" / "__init__.py").read_bytes() == b""
