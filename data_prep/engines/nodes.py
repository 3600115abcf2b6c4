"""What a task needs that runs on another machine: paths that hold there, the same data, and the same versions.

    away = travelling(tasks[0].config)                                  # here, once
    receipt = build_on_node(away, away.task(tasks[3]), report=report)   # there, whatever brought the two along

Shards are f(plan, number) only where the code and the decoders are the same, so a node with other versions is
refused by name, and so is one that does not see the output or the source.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import socket
from pathlib import Path
from typing import Any

from data_prep.config import PrepareConfig
from data_prep.shard_task import PLAN_FOLDER, ReportProgress, ShardTask, build_shard, opened_source, opened_store
from pipeline.shards.errors import UserError

PLAN_NAME = f"{PLAN_FOLDER}/plan.json"
MAX_PLAN_BYTES = 64 << 20
# What sources call their folders and files.
PATH_FIELDS = ("root", "images", "classes")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Away:
    """A config to be used on other machines, and the SHA-256 of the plan.json that must be found there."""

    config: PrepareConfig
    plan_sha256: str

    def task(self, task: ShardTask) -> ShardTask:
        """Return a task of the same config as it is to be done elsewhere."""
        return dataclasses.replace(task, config=self.config)


def travelling(config: PrepareConfig) -> Away:
    """Return `config` with paths that do not depend on this process's working folder.

    The plan keeps them as typed; nothing of this is stored.
    """
    source = config.source
    paths = {
        field.name: _absolute(value)
        for field in dataclasses.fields(source)
        if field.name in PATH_FIELDS and isinstance(value := getattr(source, field.name), str)
    }
    config = dataclasses.replace(config, out=_absolute(config.out), source=dataclasses.replace(source, **paths))
    return Away(config=config, plan_sha256=_sha256(_stored_plan(config.out)))


def build_on_node(away: Away, task: ShardTask, *, report: ReportProgress) -> dict[str, Any]:
    """Build a shard on this machine, after a look at whether it can be right here.

    Raises:
        UserError: as build_shard does; or this machine, which is named, lacks the output, the source or a version.
    """
    check_node(away)
    return build_shard(task, report)


def check_node(away: Away) -> None:
    """Refuse a machine that would not make the same bytes.

    Raises:
        UserError: it does not see the same output or source, or has other versions installed.
    """
    out = away.config.out
    plan = _stored_plan(out)
    if not plan:
        raise UserError(
            f"node {_node()}: out={out} is not there, or not the same; give an out that all nodes share, or a URL"
        )
    if _sha256(plan) != away.plan_sha256:
        raise UserError(
            f"node {_node()}: out={out} is another one there, or was begun anew; give an out that all nodes share"
        )
    _check_versions(plan, away.config)
    try:
        opened_source(away.config)
    except UserError as error:
        raise UserError(f"node {_node()}: {error}") from None


def _check_versions(plan: bytes, config: PrepareConfig) -> None:
    """Compare what is installed here with what the plan was made with."""
    from data_prep.prepare import choices_of  # which imports the engines

    here = choices_of(config)["versions"]
    for name, planned in json.loads(plan)["choices"]["versions"].items():
        if (found := here.get(name, "none")) != planned:
            raise UserError(
                f"node {_node()}: has {name} {found}, the plan was made with {planned}; install the same there"
            )


def num_done(receipt: dict[str, Any]) -> tuple[int, int]:
    """Return the items and bytes that a receipt stands for, where only whole shards are reported."""
    entry = receipt["entry"]
    num_rejected = len(receipt["rejected"])
    return (entry["nsamples"] + num_rejected, entry["filesize"]) if entry else (num_rejected, 0)


def _stored_plan(out: str) -> bytes:
    """Return plan.json, empty where there is none."""
    try:
        return opened_store(out).read_bytes(PLAN_NAME, max_bytes=MAX_PLAN_BYTES)
    except (UserError, OSError):
        return b""


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())


def _node() -> str:
    return socket.gethostname()
