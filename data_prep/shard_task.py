"""A shard task: build one shard and its sidecar from the stored plan, a pure function of (plan, number).

    receipt = build_shard(ShardTask(config=config, split="train", number=3))

The receipt, published after the shard, holds what the manifest needs. A task whose receipt and files are there
is done and is skipped by the next run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.config import PrepareConfig
from data_prep.encode import Rejected, make_encoder
from data_prep.plan import read_planned_shard
from data_prep.sources import open_source
from data_prep.sources.base import Source
from pipeline.shards.errors import UserError
from pipeline.shards.publish import publish_json
from pipeline.shards.writer import ShardWriter

PLAN_FOLDER = "plan"
RECEIPT_SUFFIX = ".receipt.json"
PROGRESS_ITEMS = 64
_OPENED: dict[str, Source] = {}

# Called with (items, bytes written) about every PROGRESS_ITEMS items.
ReportProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    config: PrepareConfig
    split: str
    number: int

    @property
    def out(self) -> Path:
        return Path(self.config.out)

    @property
    def receipt_path(self) -> Path:
        return self.out / PLAN_FOLDER / f"{self.split}-{self.number:06d}{RECEIPT_SUFFIX}"


def read_receipt(task: ShardTask) -> dict[str, Any] | None:
    """Return the receipt of a finished task whose files are as long as it says, else None."""
    try:
        receipt: dict[str, Any] = json.loads(task.receipt_path.read_bytes())
        entry = receipt["entry"]
        if entry is None:
            return receipt
        folder = task.out / task.split
        sizes = [(entry["url"], entry["filesize"]), (entry["index"]["url"], entry["index"]["filesize"])]
        if all((folder / name).stat().st_size == size for name, size in sizes):
            return receipt
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def build_shard(task: ShardTask, report: ReportProgress = lambda _items, _bytes: None) -> dict[str, Any]:
    """Build the shard, publish sidecar, shard and receipt in this order, and return the receipt.

    A shard whose every item is rejected is not kept; its receipt's entry is None.

    Raises:
        UserError: more items are bad than `max_rejected` allows, in this shard alone.
    """
    config = task.config
    source = opened_source(config)
    encoder = make_encoder(config.layout, native_shape=source.native_shape)
    rejected: list[dict[str, Any]] = []
    sums: npt.NDArray[np.int64] | None = None
    num_pixels = num_items = num_bytes = 0
    with ShardWriter(task.out / task.split, number=task.number) as writer:
        for row in read_planned_shard(task.out / PLAN_FOLDER / f"{task.split}.parquet", number=task.number):
            key, label = f"{row['row']:09d}", row["label"]
            try:
                image = source.read(path=row["path"], offset=row["offset"], size_bytes=row["size_bytes"])
                stored = encoder.encode(key=key, label=label, image=image)
            except Rejected as error:
                rejected.append({"split": task.split, "source_key": row["source_key"], "reason": str(error)})
                if len(rejected) > config.max_rejected:
                    raise too_many_rejected(rejected, config) from None
            else:
                writer.add(
                    stored.record,
                    label=label,
                    height=stored.height,
                    width=stored.width,
                    image_offset=stored.image_offset,
                    image_bytes=stored.image_bytes,
                    source_key=row["source_key"].encode(),
                )
                num_bytes += len(stored.record)
                if stored.channel_sums is not None and stored.channel_square_sums is not None:
                    both = np.stack([stored.channel_sums, stored.channel_square_sums])
                    sums = both if sums is None else sums + both
                    num_pixels += stored.num_pixels
            num_items += 1
            if num_items == PROGRESS_ITEMS:
                report(num_items, num_bytes)
                num_items = num_bytes = 0
    report(num_items, num_bytes)
    entry = writer.entry
    if entry and not entry["nsamples"]:
        writer.path.unlink()
        writer.index_path.unlink()
        entry = None
    receipt = {
        "entry": entry,
        "rejected": rejected,
        "num_pixels": num_pixels,
        "channel_sums": [] if sums is None else sums[0].tolist(),
        "channel_square_sums": [] if sums is None else sums[1].tolist(),
    }
    publish_json(task.receipt_path, receipt)
    return receipt


def too_many_rejected(rejected: list[dict[str, Any]], config: PrepareConfig) -> UserError:
    """Return the error that names the first bad item and the option that would let it pass."""
    first = rejected[0]
    return UserError(
        f"{first['source_key']}: {first['reason']}; {len(rejected)} bad items are more than"
        f" max_rejected={config.max_rejected}: mend or remove them, or add max_rejected={len(rejected)} (or more)"
        " to leave them out and list them in rejected.jsonl"
    )


def opened_source(config: PrepareConfig, *, anew: bool = False) -> Source:
    """Return the config's source, opened once a process, as that may read an archive whole, or `anew`."""
    spelling = f"{config.source!r} {config.layout.resolution}"
    if anew or spelling not in _OPENED:
        _OPENED.clear()
        _OPENED[spelling] = open_source(config.source, resolution=config.layout.resolution)
    return _OPENED[spelling]
