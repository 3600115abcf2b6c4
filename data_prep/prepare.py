"""Preparation from end to end: source -> plan -> shard tasks -> manifests -> dataset.json.

    prepare(config)     # type it again after any interruption; it ends with the same bytes

Everything that decides a byte stands in `plan/plan.json` of the output folder; a folder begun with other choices
is refused. `dataset.json` is written last: without it there is no data set.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.config import EncodedLayoutConfig, PackedLayoutConfig, PrepareConfig
from data_prep.encode import packed_layout
from data_prep.engines.local import run_local
from data_prep.plan import make_plan, shard_sizes, write_plan
from data_prep.progress import Progress
from data_prep.shard_task import PLAN_FOLDER, ShardTask, opened_source, read_receipt, too_many_rejected
from data_prep.sources.base import Source
from pipeline.compose import first_difference, to_plain
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DATA_SET_FILE, FORMAT_VERSION, MANIFEST_FILE, DataSet, read_data_set, seal
from pipeline.shards.publish import publish_bytes, publish_json, remove_part_files
from pipeline.shards.record import BLOCK_BYTES, padded_bytes

log = logging.getLogger(__name__)

PLAN_FILE = "plan.json"
REJECTED_FILE = "rejected.jsonl"
LOCK_FILE = ".lock"


def prepare(config: PrepareConfig) -> DataSet:
    """Make the data set that `config` describes, going on from whatever an earlier run finished.

    Raises:
        UserError: a bad source or option, too little disk, too many bad items, or `out` holds something else.
    """
    out = Path(config.out)
    if (out / DATA_SET_FILE).exists():
        _check_same_choices(out, config, finished=True)
        log.info("%s is already prepared", out)
        return read_data_set(out)
    if out.is_dir() and not (out / PLAN_FOLDER).is_dir() and any(out.iterdir()):
        raise UserError(f"out={out}: not empty and not begun by data_prep; choose another folder")
    source = opened_source(config)
    made_here = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        (out / PLAN_FOLDER).mkdir(parents=True, exist_ok=True)
        with _locked(out):
            remove_part_files(out)
            tasks = _planned_tasks(config, source)
            receipts = _run(config, tasks)
            data_set = _finish(config, source, tasks, receipts)
    except BaseException:
        if not (out / PLAN_FOLDER / PLAN_FILE).exists():
            shutil.rmtree(out / PLAN_FOLDER, ignore_errors=True)
            for folder in made_here:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
        raise
    return data_set


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


def _check_same_choices(out: Path, config: PrepareConfig, *, finished: bool) -> None:
    """Refuse a folder begun with other choices; library versions matter only while bytes are still to be made."""
    path = out / PLAN_FOLDER / PLAN_FILE
    if not path.exists():
        raise UserError(f"out={out}: holds a data set whose plan is gone; choose another folder")
    old, new = json.loads(path.read_bytes()), choices_of(config)
    if finished:
        old["versions"] = new["versions"]
    if difference := first_difference(old, new):
        name, before, now = difference
        raise UserError(
            f"out={out}: was begun with {name}={before}, now {name}={now}; choose another out, or remove that folder"
        )


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the folder's lock, which dies with this process; two preparations never share a folder."""
    path = out / PLAN_FOLDER / LOCK_FILE
    with path.open("wb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"out={out}: another preparation is writing there") from None
        yield
        path.unlink(missing_ok=True)


def _planned_tasks(config: PrepareConfig, source: Source) -> list[ShardTask]:
    """Make the plan, or take up the stored one, and return all shard tasks in order."""
    out = Path(config.out)
    plan_path = out / PLAN_FOLDER / PLAN_FILE
    if plan_path.exists():
        _check_same_choices(out, config, finished=False)
    else:
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
            log.info("planned %s: %s images in %s shards", split, f"{plan.num_items:,}", f"{plan.num_shards:,}")
            write_plan(plan, out / PLAN_FOLDER / f"{split}.parquet")
        free_bytes = shutil.disk_usage(out).free
        if planned_bytes > free_bytes:
            raise UserError(
                f"out={out}: {planned_bytes / 1e9:.3g} GB wanted, {free_bytes / 1e9:.3g} GB free on its disk;"
                " free some space or choose another out"
            )
        publish_json(plan_path, choices_of(config))
    return [
        ShardTask(config=config, split=split, number=number)
        for split in source.splits
        for number in range(len(shard_sizes(out / PLAN_FOLDER / f"{split}.parquet")))
    ]


def _record_sizes(config: PrepareConfig, source: Source, sizes_bytes: Any) -> Any:
    if isinstance(config.layout, PackedLayoutConfig):
        layout = packed_layout(config.layout, native_shape=source.native_shape)
        return np.full(len(sizes_bytes), layout.record_bytes, dtype=np.int64)
    return np.array([3 * BLOCK_BYTES + padded_bytes(int(size)) for size in sizes_bytes], dtype=np.int64)


def _run(config: PrepareConfig, tasks: list[ShardTask]) -> list[dict[str, Any]]:
    """Build what is not built yet and return every receipt in the tasks' order."""
    out = Path(config.out)
    sizes = {split: shard_sizes(out / PLAN_FOLDER / f"{split}.parquet") for split in {task.split for task in tasks}}
    for split in sizes:
        (out / split).mkdir(exist_ok=True)
    undone = [task for task in tasks if read_receipt(task) is None]
    if len(undone) < len(tasks):
        log.info("going on: %d of %d shards are finished", len(tasks) - len(undone), len(tasks))
    finished = [receipt for task in tasks if (receipt := read_receipt(task))]
    rejected = _check_rejected(finished, config)
    total = sum(sizes[task.split][task.number] for task in undone)
    with Progress(total=total, unit="images", label="preparing") as progress:
        for receipt in run_local(undone, workers=config.engine.workers, on_progress=progress.update):
            rejected += receipt["rejected"]
            if len(rejected) > config.max_rejected:
                raise too_many_rejected(rejected, config)
    if undone:
        log.info("prepared %s in %.1f s", progress.summary(), progress.seconds)
    return [receipt for task in tasks if (receipt := read_receipt(task))]


def _check_rejected(receipts: list[dict[str, Any]], config: PrepareConfig) -> list[dict[str, Any]]:
    rejected = [row for receipt in receipts for row in receipt["rejected"]]
    if len(rejected) > config.max_rejected:
        raise too_many_rejected(rejected, config)
    return rejected


def _finish(config: PrepareConfig, source: Source, tasks: list[ShardTask], receipts: list[dict[str, Any]]) -> DataSet:
    """Write rejected.jsonl, the manifests and, last, dataset.json."""
    out = Path(config.out)
    rejected = _check_rejected(receipts, config)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rejected)
    splits: dict[str, Any] = {}
    for split in source.splits:
        entries = [r["entry"] for t, r in zip(tasks, receipts, strict=True) if t.split == split]
        shardlist = [entry for entry in entries if entry["nsamples"]]
        samples = sum(entry["nsamples"] for entry in shardlist)
        if not samples:
            raise UserError(f"source: every image of split {split!r} was rejected; the first: {rejected[0]['reason']}")
        manifest = {"wids_version": 1, "format_version": FORMAT_VERSION, "split": split, "shardlist": shardlist}
        written = publish_json(out / split / MANIFEST_FILE, manifest)
        splits[split] = {"samples": samples, "manifest_sha256": hashlib.sha256(written).hexdigest()}
    publish_bytes(out / REJECTED_FILE, lines.encode())
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "name": source.name,
        "task": "classification",
        "classes": list(source.classes),
        "layout": _layout_facts(config, source),
        "splits": splits,
        "statistics": _statistics([r for t, r in zip(tasks, receipts, strict=True) if t.split == source.splits[0]]),
        "rejected": len(rejected),
        "provenance": choices_of(config),
    }
    publish_json(out / DATA_SET_FILE, {**content, "checksum": seal(content)})
    for task, receipt in zip(tasks, receipts, strict=True):
        if not receipt["entry"]["nsamples"]:
            (out / task.split / receipt["entry"]["url"]).unlink(missing_ok=True)
            (out / task.split / receipt["entry"]["index"]["url"]).unlink(missing_ok=True)
        task.receipt_path.unlink()
    return read_data_set(out)


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
