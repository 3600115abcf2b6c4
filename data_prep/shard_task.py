"""A shard task: build one shard and its sidecar from the stored plan, a pure function of (plan, number).

    receipt = build_shard(ShardTask(config=config, split="train", number=3))

The receipt, published after the shard, holds what the manifest needs. A task whose receipt and files are there
is done and is skipped by the next run. Items are read in the order in which they lie in their archives and
written in the order of the plan, so a task holds one shard in memory.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import pyarrow.parquet as pq

from data_prep.card.sizes import SizeHistogram
from data_prep.card.stored_set import publish_content_crcs
from data_prep.channel_sums import ChannelSums
from data_prep.config import PrepareConfig
from data_prep.encode import Box, Stored, make_encoder
from data_prep.plan import read_planned_shard
from data_prep.sources import open_source
from data_prep.sources.base import ImageArray, Rejected, Source
from data_prep.sources.chosen_classes import ChosenClasses
from data_prep.store_file import open_stored, publish_below
from pipeline.shards.errors import UserError
from pipeline.shards.record import Label, Targets
from pipeline.shards.writer import ShardWriter
from pipeline.storage import Store, open_store

PLAN_FOLDER = "plan"
RECEIPT_SUFFIX = ".receipt.json"
MAX_RECEIPT_BYTES = 1 << 30
PROGRESS_ITEMS = 64
# Ranged reads in flight of one task, where each waits for a server.
REMOTE_READERS = 16
STAGES = ("reading", "decoding", "writing")

_OPENED: dict[str, Any] = {}

# Called with (items, bytes written) about every PROGRESS_ITEMS items.
ReportProgress = Callable[[int, int], None]
Row = dict[str, Any]
Image = bytes | ImageArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """One shard to build.

    Attributes:
        plan_fingerprint: of the plan that it is a part of.
        label_bytes: of the layout, where an image has several labels or targets, else None.
    """

    config: PrepareConfig
    split: str
    number: int
    plan_fingerprint: str
    label_bytes: int | None = None

    @property
    def plan_name(self) -> str:
        return planned_name(self.split)

    @property
    def receipt_name(self) -> str:
        return f"{PLAN_FOLDER}/{self.split}-{self.number:06d}{RECEIPT_SUFFIX}"


def planned_name(split: str) -> str:
    """Return where a split's plan lies in the data set."""
    return f"{PLAN_FOLDER}/{split}.parquet"


def read_receipt(store: Store, task: ShardTask) -> dict[str, Any] | None:
    """Return the receipt of a finished task whose files are as long as it says, else None."""
    try:
        receipt: dict[str, Any] = json.loads(store.read_bytes(task.receipt_name, max_bytes=MAX_RECEIPT_BYTES))
        return receipt if has_files(store, task, receipt) else None
    except (UserError, ValueError, KeyError, TypeError):
        return None


def has_files(store: Store, task: ShardTask, receipt: dict[str, Any]) -> bool:
    """Tell whether a receipt's files are there and as long as it says."""
    entry = receipt["entry"]
    if entry is None:
        return True
    files = ((entry["url"], entry["filesize"]), (entry["index"]["url"], entry["index"]["filesize"]))
    return all(store.size_of(f"{task.split}/{name}") == size for name, size in files)


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What a task counts on its way."""

    rejected: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    sums: ChannelSums = field(default_factory=ChannelSums)
    source_sizes: SizeHistogram = field(default_factory=SizeHistogram)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


def build_shard(task: ShardTask, report: ReportProgress = lambda _items, _bytes: None) -> dict[str, Any]:
    """Build the shard, publish sidecar, shard and receipt in this order, and return the receipt.

    A shard whose every item is rejected is not kept; its receipt's entry is None.

    Raises:
        UserError: more items are bad than `max_rejected` allows, in this shard alone.
    """
    store = opened_store(task.config.out)
    rows = planned_rows(task)
    tally = _Tally()
    records = _encode(task, rows, tally, report)
    started_s = time.perf_counter()
    with ShardWriter(publish_below(store, task.split), number=task.number) as writer:
        for row in rows:
            if stored := records.pop(row["row"], None):
                writer.add(
                    stored.record,
                    label=_label(row),
                    height=stored.height,
                    width=stored.width,
                    image_offset=stored.image_offset,
                    image_bytes=stored.image_bytes,
                    source_key=row["source_key"].encode(),
                )
    if writer.entry:
        publish_content_crcs(store, split=task.split, shard=writer.name, crcs=writer.image_crcs)
    tally.seconds["writing"] += time.perf_counter() - started_s
    sums, square_sums = ([], []) if (totals := tally.sums.totals()) is None else totals.tolist()
    receipt = {
        "entry": writer.entry,
        "rejected": [entry for _, entry in sorted(tally.rejected, key=lambda pair: pair[0])],
        "num_pixels": tally.sums.num_pixels,
        "channel_sums": sums,
        "channel_square_sums": square_sums,
        "source_sizes": tally.source_sizes.to_plain(),
        "seconds": tally.seconds,
    }
    publish_receipt(store, task, receipt)
    return receipt


def publish_receipt(store: Store, task: ShardTask, receipt: dict[str, Any]) -> None:
    """Write down that a task is done."""
    with store.publish(task.receipt_name) as stream:
        stream.write(json.dumps(receipt, ensure_ascii=False, allow_nan=False).encode())


def _encode(task: ShardTask, rows: list[Row], tally: _Tally, report: ReportProgress) -> dict[int, Stored]:
    """Return the records of a task's rows by row number, read in the order of their archives."""
    config = task.config
    source = opened_source(config)
    encoder = make_encoder(config.layout, native_shape=source.native_shape, label_bytes=task.label_bytes)
    tally.sums = encoder.sums
    records: dict[int, Stored] = {}
    num_items = num_bytes = 0
    asked_s = time.perf_counter()
    in_order = sorted(rows, key=lambda row: (row["path"], row["offset"], row["row"]))
    for row, image in _images(source, in_order, num_readers=REMOTE_READERS if is_remote(config) else 1):
        read_s = time.perf_counter()
        tally.seconds["reading"] += read_s - asked_s
        try:
            if isinstance(image, Rejected):
                raise image
            stored = encoder.encode(
                key=f"{row['row']:09d}",
                label=_label(row),
                image=image,
                box=cast(Box, tuple(row["box"])) if row["box"] else None,
                details=json.loads(row["details"]) if row["details"] else None,
            )
        except Rejected as error:
            entry = {"split": task.split, "source_key": row["source_key"], "reason": str(error)}
            tally.rejected.append((row["row"], entry))
            if len(tally.rejected) > config.max_rejected:
                raise too_many_rejected([entry for _, entry in tally.rejected], config) from None
        else:
            records[row["row"]] = stored
            tally.source_sizes.add(stored.source_width, stored.source_height)
            num_bytes += len(stored.record)
        num_items += 1
        if num_items == PROGRESS_ITEMS:
            report(num_items, num_bytes)
            num_items = num_bytes = 0
        asked_s = time.perf_counter()
        tally.seconds["decoding"] += asked_s - read_s
    report(num_items, num_bytes)
    return records


def _images(source: Source, rows: list[Row], *, num_readers: int) -> Iterator[tuple[Row, Image | Rejected]]:
    """Yield each row with its image, or with why it cannot be had; several readers read ahead."""

    def read(row: Row) -> Image | Rejected:
        try:
            return source.read(path=row["path"], offset=row["offset"], size_bytes=row["size_bytes"])
        except Rejected as reason:
            return reason

    if num_readers == 1:
        yield from ((row, read(row)) for row in rows)
        return
    with ThreadPoolExecutor(num_readers) as pool:
        futures = ((row, pool.submit(read, row)) for row in rows)
        try:
            waiting = deque(islice(futures, 2 * num_readers))
            while waiting:
                row, future = waiting.popleft()
                yield row, future.result()
                waiting.extend(islice(futures, 1))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def is_remote(config: PrepareConfig) -> bool:
    """Tell whether the source's items come from a server, so that each read waits."""
    return "://" in getattr(config.source, "root", "")


def _label(row: Row) -> Label:
    if "targets" in row:
        return Targets(tuple(row["targets"]))
    label: Label = row["label"] if "label" in row else row["labels"]
    return label


def planned_rows(task: ShardTask) -> list[Row]:
    """Return the rows of the task's shard; a split's plan stays open in this process until another one is asked for."""
    wanted = f"{task.config.out} {task.plan_name} {task.plan_fingerprint}"
    if _OPENED.get("plan name") != wanted:
        _OPENED["plan"] = pq.ParquetFile(open_stored(open_store(task.config.out), task.plan_name))
        _OPENED["plan name"] = wanted
    return read_planned_shard(_OPENED["plan"], number=task.number)


def too_many_rejected(rejected: list[dict[str, Any]], config: PrepareConfig) -> UserError:
    """Return the error that names the first bad item and the option that would let it pass."""
    first = rejected[0]
    return UserError(
        f"{first['source_key']}: {first['reason']}; {len(rejected)} bad items are more than"
        f" max_rejected={config.max_rejected}: mend or remove them, or add max_rejected={len(rejected)} (or more)"
        " to leave them out and list them in rejected.jsonl"
    )


def opened_store(location: str) -> Store:
    """Return the store of an output, opened once a process."""
    if _OPENED.get("out name") != location:
        _OPENED["out"], _OPENED["out name"] = open_store(location), location
    return cast(Store, _OPENED["out"])


def opened_source(config: PrepareConfig, *, anew: bool = False) -> Source:
    """Return the config's source, opened once a process, as that may read an archive whole, or `anew`."""
    spelling = f"{config.source!r} {config.layout.resolution} {config.classes}"
    if anew or _OPENED.get("source name") != spelling:
        _OPENED.pop("source", None)
        source = open_source(config.source, resolution=config.layout.resolution)
        _OPENED["source"] = source if config.classes is None else ChosenClasses(source, names=config.classes)
        _OPENED["source name"] = spelling
    return cast(Source, _OPENED["source"])
