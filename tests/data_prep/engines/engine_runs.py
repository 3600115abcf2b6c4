"""Preparations of a small synthetic set by any engine, and workers that are killed at a chosen shard."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from started import start
from tiny_data import ROOT, command, write_pictures

# 8 and 2 shards.
SYNTHETIC = ["source=synthetic", "source.samples=700", "source.val_samples=100", "layout.resolution=32"]
SYNTHETIC += ["layout.shard_bytes=500000"]
RAY = ["engine=ray", "engine.workers=2"]
JOBS = ["engine=slurm", "engine.cluster=local", "engine.workers=2"]

# Found by each Python process that has its folder on PYTHONPATH. The process that builds a chosen shard, say
# train-3, dies as if the kernel had killed it: the first one ("once"), or every one ("always").
KILLED_AT = """
import os, signal
from pathlib import Path
from data_prep import shard_task
build, here = shard_task.build_shard, Path(__file__).parent
def build_or_die(task, *rest):
    name = f"{task.split}-{task.number}"
    with (here / "built").open("a") as stream:
        stream.write(f"{name}\\n")
    if name == "SHARD" and ("HOW" == "always" or not (here / "killed").exists()):
        (here / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return build(task, *rest)
shard_task.build_shard = build_or_die
"""


def killed_at(folder: Path, shard: str, how: str) -> dict[str, str]:
    """Return the environment in which a worker is killed when it builds `shard`."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(KILLED_AT.replace("SHARD", shard).replace("HOW", how))
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def times_built(folder: Path, shard: str) -> int:
    return (folder / "built").read_text().splitlines().count(shard)


def prepare_by(
    out: Path, *options: str, source: list[str] = SYNTHETIC, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the real command with `out` spelled relative to its working folder."""
    return subprocess.run(
        command("data_prep", *source, *options, f"out={out.name}"),
        cwd=out.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
    )


def start_by(out: Path, *options: str) -> subprocess.Popen[str]:
    return start(out.parent, *SYNTHETIC, *options, f"out={out.name}")


def check_a_tasks_own_error(folder: Path, *engine: str, environment: dict[str, str] | None = None) -> None:
    """Prepare a folder with a bad picture by an engine: the error must be one line, and nothing half done be left."""
    write_pictures(folder / "pets", num_each=6)
    (folder / "pets" / "cat" / "bad.png").write_bytes(b"no picture")
    source = ["source=folder", "source.root=pets", "layout.shard_bytes=20000"]
    ended = prepare_by(folder / "set", *engine, source=source, environment=environment)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert last_line(ended).startswith("error: cat/bad.png: ")
    assert "max_rejected=0" in last_line(ended)
    assert not list((folder / "set").rglob(".*.part"))


def last_line(ended: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in ended.stderr
    return ended.stderr.splitlines()[-1]
