"""Preparation from end to end: source -> plan -> shard tasks -> manifests -> dataset.json.

    prepare(config)     # type it again after any interruption; it ends with the same bytes

Everything that decides a byte stands in `plan/plan.json` of the output folder; a folder begun with other choices
is refused, and one begun with other images is begun again. `dataset.json` is written last: without it there is no
data set.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.config import EncodedLayoutConfig, PackedLayoutConfig, PrepareConfig
from data_prep.encode import packed_layout
from data_prep.engines.local import run_local
from data_prep.folders import created_folder, locked_folder
from data_prep.plan import make_plan, shard_sizes, write_plan
from data_prep.progress import Progress
from data_prep.shard_task import (
    PLAN_FOLDER,
    RECEIPT_SUFFIX,
    ShardTask,
    opened_source,
    read_receipt,
    too_many_rejected,
)
from data_prep.sources.base import Source
from pipeline.compose import first_difference, to_plain
from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.manifest import (
    DATA_SET_FILE,
    FORMAT_VERSION,
    TASK,
    DataSet,
    publish_data_set,
    publish_manifest,
    publish_rejected,
    read_data_set,
)
from pipeline.shards.publish import publish_json, remove_part_files
from pipeline.shards.record import BLOCK_BYTES

log = logging.getLogger(__name__)

PLAN_FILE = "plan.json"


def prepare(config: PrepareConfig) -> DataSet:
    """Make the data set that `config` describes, going on from whatever an earlier run finished.

    Raises:
        UserError: a bad source or option, too little disk, too many bad items, or `out` holds something else.
    """
    out = Path(config.out)
    if (out / DATA_SET_FILE).exists():
        return _finished(out, config)
    if out.is_dir() and not (out / PLAN_FOLDER).is_dir() and any(out.iterdir()):
        raise UserError(f"out={out}: not empty and not begun by data_prep; choose another folder")
    source = opened_source(config, anew=True)
    busy = f"out={out}: another preparation is writing there"
    with created_folder(out, option="out"), locked_folder(out, busy=busy, wait=False):
        if (out / DATA_SET_FILE).exists():
            return _finished(out, config)
        remove_part_files(out)
        try:
            (out / PLAN_FOLDER).mkdir(exist_ok=True)
            receipts = _run(config, _planned_tasks(config, source))
            _finish(config, source, receipts)
            _remove_receipts(out)
        except BaseException:
            remove_part_files(out)  # of a worker that was killed
            if not (out / PLAN_FOLDER / PLAN_FILE).exists():
                shutil.rmtree(out / PLAN_FOLDER, ignore_errors=True)
            raise
    return read_data_set(out)


def choices_of(config: PrepareConfig) -> dict[str, Any]:
    """Return everything in a config that decides a byte of the result."""
    return {
        "format_version": FORMAT_VERSION,
        "seed": config.seed,
        "source": {
            "kind": type(config.source).__name__.removesuffix("SourceConfig").lower(),
            **to_plain(config.source),
        },
        "layout": {
            "kind": type(config.layout).__name__.removesuffix("LayoutConfig").lower(),
            **to_plain(config.layout),
        },
        "versions": {"tarmac": version("tarmac"), "pillow": version("pillow")},
    }


def _finished(out: Path, config: PrepareConfig) -> DataSet:
    """Return a data set that is there already, after checking that it is the wanted one."""
    plan = _stored_plan(out)
    if plan is None:
        raise UserError(f"out={out}: holds a data set whose plan is gone; choose another folder")
    _check_same_choices(out, plan, config, finished=True)
    _remove_receipts(out)
    log.info("%s is already prepared", out)
    return read_data_set(out)


def _remove_receipts(out: Path) -> None:
    """Remove what only an unfinished preparation needs; a run killed right after dataset.json leaves some."""
    for path in (out / PLAN_FOLDER).glob(f"*{RECEIPT_SUFFIX}"):
        path.unlink(missing_ok=True)


def _stored_plan(out: Path) -> dict[str, Any] | None:
    """Return plan.json, None where there is none: {"choices": as choices_of, "splits": {name: fingerprint}}."""
    path = out / PLAN_FOLDER / PLAN_FILE
    try:
        plan = json.loads(path.read_bytes())
        return {"choices": dict(plan["choices"]), "splits": dict(plan["splits"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DamageError(f"{path}: damaged ({error!r}); remove {out} or choose another out") from None


def _check_same_choices(out: Path, plan: dict[str, Any], config: PrepareConfig, *, finished: bool) -> None:
    """Refuse a folder begun with other choices; library versions matter only while bytes are still to be made."""
    old, new = plan["choices"], choices_of(config)
    if finished:
        old = {**old, "versions": new["versions"]}
    if difference := first_difference(old, new):
        name, before, now = difference
        raise UserError(
            f"out={out}: was begun with {name}={before}, now {name}={now}; choose another out, or remove that folder"
        )


def _planned_tasks(config: PrepareConfig, source: Source) -> list[ShardTask]:
    """Make and store the plan, and return all shard tasks in order.

    The plan is pure, so a later run makes the same one; where it does not, the source has changed in between, and
    what was built from the old one goes.
    """
    out = Path(config.out)
    stored = _stored_plan(out)
    if stored is not None:
        _check_same_choices(out, stored, config, finished=False)
    fingerprints: dict[str, str] = {}
    tasks: list[ShardTask] = []
    planned_bytes = 0
    for split in source.splits:
        items = source.list_items(split)
        if len(items) == 0:
            raise UserError(f"source: split {split!r} has no images")
        plan = make_plan(
            items,
            split=split,
            seed=config.seed,
            stored_sizes_bytes=_record_sizes(config, source, items.sizes_bytes),
            shard_bytes=config.layout.shard_bytes,
        )
        planned_bytes += plan.stored_bytes
        shards = "shard" if plan.num_shards == 1 else "shards"
        log.info("planned %s: %s images in %s %s", split, f"{plan.num_items:,}", f"{plan.num_shards:,}", shards)
        write_plan(plan, out / PLAN_FOLDER / f"{split}.parquet")
        fingerprints[split] = plan.fingerprint
        tasks += [ShardTask(config=config, split=split, number=number) for number in range(plan.num_shards)]
    if stored is not None and stored["splits"] != fingerprints:
        log.info("the source is not what it was when %s was begun: beginning again", out)
        _remove_receipts(out)
        for split in {*stored["splits"], *source.splits}:
            shutil.rmtree(out / split, ignore_errors=True)
        for path in (out / PLAN_FOLDER).glob("*.parquet"):
            if path.stem not in fingerprints:
                path.unlink()
    _check_room(out, tasks, planned_bytes=planned_bytes)
    publish_json(out / PLAN_FOLDER / PLAN_FILE, {"choices": choices_of(config), "splits": fingerprints})
    return tasks


def _check_room(out: Path, tasks: list[ShardTask], *, planned_bytes: int) -> None:
    entries = [receipt["entry"] for task in tasks if (receipt := read_receipt(task))]
    missing_bytes = planned_bytes - sum(entry["filesize"] for entry in entries if entry)
    free_bytes = shutil.disk_usage(out).free
    if missing_bytes > free_bytes:
        raise UserError(
            f"out={out}: {missing_bytes / 1e9:.3g} GB wanted, {free_bytes / 1e9:.3g} GB free on its disk;"
            " free some space or choose another out"
        )


def _record_sizes(config: PrepareConfig, source: Source, sizes_bytes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return each record's length: exact where packed, and where encoded bytes are kept as they are."""
    if isinstance(config.layout, PackedLayoutConfig):
        layout = packed_layout(config.layout, native_shape=source.native_shape)
        return np.full(len(sizes_bytes), layout.record_bytes, dtype=np.int64)
    return (3 - -sizes_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _run(config: PrepareConfig, tasks: list[ShardTask]) -> list[tuple[ShardTask, dict[str, Any]]]:
    """Build what is not built yet and return every task with its receipt, in the tasks' order."""
    out = Path(config.out)
    num_items: dict[str, list[int]] = {}
    for split in {task.split for task in tasks}:
        (out / split).mkdir(exist_ok=True)
        num_items[split] = shard_sizes(out / PLAN_FOLDER / f"{split}.parquet")
    receipts = {task.receipt_path: receipt for task in tasks if (receipt := read_receipt(task))}
    _check_rejected(receipts.values(), config)
    undone = [task for task in tasks if task.receipt_path not in receipts]
    if receipts:
        log.info("going on: %d of %d shards are finished", len(receipts), len(tasks))
    total = sum(num_items[task.split][task.number] for task in undone)
    with Progress(total=total, unit="images", label="preparing") as progress:
        for task, receipt in run_local(undone, workers=config.engine.workers, on_progress=progress.update):
            receipts[task.receipt_path] = receipt
            _check_rejected(receipts.values(), config)
    if undone:
        log.info("prepared %s in %.1f s", progress.summary(), progress.seconds)
    return [(task, receipts[task.receipt_path]) for task in tasks]


def _check_rejected(receipts: Iterable[dict[str, Any]], config: PrepareConfig) -> list[dict[str, Any]]:
    """Return all rejected items; too many of them are an error."""
    rejected = [row for receipt in receipts for row in receipt["rejected"]]
    if len(rejected) > config.max_rejected:
        raise too_many_rejected(rejected, config)
    return rejected


def _finish(config: PrepareConfig, source: Source, receipts: list[tuple[ShardTask, dict[str, Any]]]) -> None:
    """Write rejected.jsonl, the manifests and, last, dataset.json."""
    out = Path(config.out)
    rejected = _check_rejected((receipt for _, receipt in receipts), config)
    splits: dict[str, Any] = {}
    for split in source.splits:
        shardlist = [receipt["entry"] for task, receipt in receipts if task.split == split and receipt["entry"]]
        if not shardlist:
            raise UserError(f"source: every image of split {split!r} was rejected; the first: {rejected[0]['reason']}")
        splits[split] = publish_manifest(out / split, split=split, shardlist=shardlist)
    publish_data_set(
        out,
        {
            "name": source.name,
            "task": TASK,
            "classes": list(source.classes),
            "layout": _layout_facts(config, source),
            "splits": splits,
            "statistics": _statistics([receipt for task, receipt in receipts if task.split == source.splits[0]]),
            "rejected": publish_rejected(out, rejected),
            "provenance": choices_of(config),
        },
    )


def _layout_facts(config: PrepareConfig, source: Source) -> dict[str, Any]:
    if isinstance(config.layout, EncodedLayoutConfig):
        return {"kind": "encoded"}
    assert isinstance(config.layout, PackedLayoutConfig)
    layout = packed_layout(config.layout, native_shape=source.native_shape)
    return {
        "kind": "packed",
        "height": layout.height,
        "width": layout.width,
        "channels": layout.channels,
        "record_bytes": layout.record_bytes,
        "pixel_offset": layout.pixel_offset,
    }


def _statistics(receipts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return channel mean and std in 0..255 from the receipts' exact integer sums, the same in any order."""
    num_pixels = sum(receipt["num_pixels"] for receipt in receipts)
    if num_pixels == 0:
        return None
    measured = [receipt for receipt in receipts if receipt["num_pixels"]]
    sums = [sum(column) for column in zip(*(receipt["channel_sums"] for receipt in measured), strict=True)]
    squares = [sum(column) for column in zip(*(receipt["channel_square_sums"] for receipt in measured), strict=True)]
    # n*sum(x^2) - (sum x)^2 in exact integers: no cancellation.
    return {
        "mean": [total / num_pixels for total in sums],
        "std": [math.sqrt(num_pixels * q - s * s) / num_pixels for s, q in zip(sums, squares, strict=True)],
    }
