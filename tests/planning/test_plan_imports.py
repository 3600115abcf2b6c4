"""What the planner loads, read from the source text: a plan is to be there in two seconds."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def imported(path: Path) -> set[str]:
    """Return the full names of what a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}", *(f"{node.module}.{name.name}" for name in node.names)}
    return names


def loaded(module: str) -> dict[str, set[str]]:
    """Return what each of our modules that a module loads imports, itself included."""
    found: dict[str, set[str]] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        folder = ROOT / Path(*name.split("."))
        files = [path for path in (folder.with_suffix(".py"), folder / "__init__.py") if path.is_file()]
        if name not in found and name.startswith("pipeline.") and files:
            found[name] = imported(files[0])
            waiting += found[name]
    return found


def test_a_plan_loads_no_training_framework() -> None:
    """Lightning alone takes longer to load than everything else together."""
    ours = loaded("pipeline.plan")
    assert {"pipeline.planning.rehearsal", "pipeline.build_optimizer"} <= ours.keys()
    users = {name: names for name, names in ours.items() if any("lightning" in imported for imported in names)}
    assert not users
