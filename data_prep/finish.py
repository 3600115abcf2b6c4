"""The end of a preparation: manifests, the ledger, rejected.jsonl, dataset.json and the card, from the tasks' receipts.

    finish(store, config, source, tasks, receipts, choices=choices)

`dataset.json` comes after all that it vouches for, and the card, which shows a finished data set, after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from data_prep.card.gather import SOURCE_SIZES, gather_facts
from data_prep.card.page import write_card
from data_prep.card.sizes import SizeHistogram
from data_prep.config import EncodedLayoutConfig, PackedLayoutConfig, PrepareConfig
from data_prep.encode import packed_layout
from data_prep.receipts import Receipts, publish_ledger, remove_receipts
from data_prep.shard_task import ShardTask, too_many_rejected
from data_prep.sources.base import Source
from data_prep.store_file import publish_below
from data_prep.view import data_set_view
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import publish_data_set, publish_manifest, publish_rejected
from pipeline.storage import Store


def checked_rejected(receipts: Iterable[dict[str, Any]], config: PrepareConfig) -> list[dict[str, Any]]:
    """Return all rejected items; too many of them are an error."""
    rejected = [row for receipt in receipts for row in receipt["rejected"]]
    if len(rejected) > config.max_rejected:
        raise too_many_rejected(rejected, config)
    return rejected


def finish(
    store: Store,
    config: PrepareConfig,
    source: Source,
    tasks: list[ShardTask],
    receipts: Receipts,
    *,
    choices: dict[str, Any],
) -> None:
    """Write rejected.jsonl, the manifests, the ledger of receipts and, last, dataset.json; receipts go."""
    in_order = [(task, receipts[task.receipt_name]) for task in tasks]
    rejected = checked_rejected((receipt for _, receipt in in_order), config)
    splits: dict[str, Any] = {}
    for split in source.splits:
        shardlist = [receipt["entry"] for task, receipt in in_order if task.split == split and receipt["entry"]]
        if not shardlist:
            raise UserError(f"source: every image of split {split!r} was rejected; the first: {rejected[0]['reason']}")
        splits[split] = publish_manifest(publish_below(store, split), split=split, shardlist=shardlist)
    publish_ledger(store, tasks, receipts)
    publish_data_set(
        store.publish,
        {
            "name": source.name,
            "task": source.task.value,
            "classes": list(source.classes),
            **({"class_ids": list(source.class_ids)} if source.class_ids else {}),
            "layout": _layout_facts(config, source, tasks[0].label_bytes),
            "splits": splits,
            "statistics": _statistics([receipt for task, receipt in in_order if task.split == source.splits[0]]),
            SOURCE_SIZES: _source_sizes(receipts.values()),
            "rejected": publish_rejected(store.publish, rejected),
            "provenance": choices,
        },
    )
    make_card(store)
    remove_receipts(store)


def make_card(store: Store) -> None:
    """Write card.html of the finished data set."""
    with data_set_view(store) as data_set:
        write_card(store.publish, gather_facts(data_set, store=store))


def _source_sizes(receipts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the sizes that images had before they were prepared, of all splits."""
    sizes = SizeHistogram()
    for receipt in receipts:
        sizes.merge(SizeHistogram.from_plain(receipt[SOURCE_SIZES]))
    return sizes.to_plain()


def _layout_facts(config: PrepareConfig, source: Source, label_bytes: int | None) -> dict[str, Any]:
    if isinstance(config.layout, EncodedLayoutConfig):
        return {"kind": "encoded"}
    assert isinstance(config.layout, PackedLayoutConfig)
    layout = packed_layout(config.layout, native_shape=source.native_shape, label_bytes=label_bytes)
    return {
        "kind": "packed",
        "height": layout.height,
        "width": layout.width,
        "channels": layout.channels,
        **({"label_bytes": label_bytes} if label_bytes else {}),
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
