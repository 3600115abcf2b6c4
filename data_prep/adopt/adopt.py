"""Adopting foreign WebDataset shards: sidecars, manifests and dataset.json around tars that are not touched.

    adopt(IndexConfig(path="web/imagenet"))             # beside the tars
    adopt(IndexConfig(path="https://.../train-{0000..0146}.tar", out="data/imagenet"))

Killed and typed again it goes on: what was read of a tar stands in a receipt, and the same tars give the same bytes
with any number of threads.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

from data_prep.adopt.sidecar import index_tar
from data_prep.card.gather import gather_facts
from data_prep.card.page import CARD_FILE, write_card
from data_prep.config import IndexConfig
from data_prep.progress import Progress
from data_prep.shard_task import PLAN_FOLDER, RECEIPT_SUFFIX
from data_prep.sources.webdataset import Found, OptionNames, WebDatasetSource, open_webdataset
from data_prep.view import data_set_view
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import (
    DATA_SET_FILE,
    FOREIGN,
    MANIFEST_FILE,
    PLAIN_NAME,
    REJECTED_FILE,
    DataSet,
    publish_data_set,
    publish_manifest,
    publish_rejected,
)
from pipeline.storage import Store, is_local, open_store

log = logging.getLogger(__name__)

MAX_RECEIPT_BYTES = 1 << 30
OPTION_NAMES = OptionNames(root="path", train="train", val="val", label_field="label_field", classes="classes")
Receipt = dict[str, Any]


def adopt(config: IndexConfig) -> DataSet:
    """Write what makes a data set of foreign tars, and return it.

    Raises:
        UserError: no tars, tars of one split in several folders, too many bad samples, or `out` holds something else.
        DamageError: a damaged tar.
    """
    source = open_webdataset(
        config.path,
        train=config.train,
        val=config.val,
        label_field=config.label_field,
        classes=config.classes,
        image=config.image,
        options=OPTION_NAMES,
    )
    out = open_store(_out_of(config, source))
    if out.size_of(DATA_SET_FILE) is not None:
        raise UserError(f"out={out.location}: holds a data set already; choose another out, or remove {DATA_SET_FILE}")
    _check_free(out, source)
    places = {split: _place(source, split, out) for split in source.splits}
    receipts = {split: _receipts(source, split, out, config) for split in source.splits}
    rejected = [row for rows in receipts.values() for receipt in rows for row in receipt["rejected"]]
    splits: dict[str, Any] = {}
    chosen = {} if config.image is None else {"image": config.image}
    for split, rows in receipts.items():
        shardlist = [receipt["entry"] for receipt in rows if receipt["entry"]]
        if not shardlist:
            raise UserError(f"path={config.path}: no sample of split {split!r} can be had: {rejected[0]['reason']}")
        splits[split] = publish_manifest(
            lambda name, split=split: out.publish(f"{split}/{name}"),  # type: ignore[misc]
            split=split,
            shardlist=shardlist,
            shards_at=places[split],
        )
    publish_data_set(
        out.publish,
        {
            "name": source.name,
            "task": source.task.value,
            "classes": list(source.classes),
            "layout": {"kind": FOREIGN},
            "splits": splits,
            "statistics": None,
            "rejected": publish_rejected(out.publish, rejected),
            "provenance": {"adopted": {"path": config.path, "label_field": config.label_field, **chosen}},
        },
    )
    for file in out.list_files(PLAN_FOLDER):
        if file.name.endswith(RECEIPT_SUFFIX):
            out.remove(file.name)
    if is_local(out) and (plan := Path(out.location) / PLAN_FOLDER).is_dir() and not any(plan.iterdir()):
        plan.rmdir()
    with data_set_view(out) as data_set:
        write_card(out.publish, gather_facts(data_set, store=out))
        return data_set


def _check_free(out: Store, source: WebDatasetSource) -> None:
    """Refuse to write over files of the names that we need, unless this very adoption was begun before."""
    begun = any(file.name.endswith(RECEIPT_SUFFIX) for file in out.list_files(PLAN_FOLDER))
    names = [CARD_FILE, REJECTED_FILE, *(f"{split}/{MANIFEST_FILE}" for split in source.splits)]
    taken = [name for name in names if out.size_of(name) is not None]
    if taken and not begun:
        raise UserError(
            f"out={out.location}: {taken[0]} is there already and would be written over; move it away, or choose"
            " another out"
        )


def _out_of(config: IndexConfig, source: WebDatasetSource) -> str:
    if config.out is not None:
        return config.out
    if not is_local(source.store):
        raise UserError(f"path={config.path}: remote; say where the sidecars go, as in out=data/name")
    if not os.access(source.store.location, os.W_OK):
        raise UserError(f"path={config.path}: cannot be written to; say where the sidecars go, as in out=data/name")
    return source.store.location


def _place(source: WebDatasetSource, split: str, out: Store) -> str | None:
    """Return the manifest's `shards_at`: None where the tars lie in the split's own folder."""
    folders = sorted({tar.rpartition("/")[0] for tar in source.tars[split]})
    if len(folders) > 1:
        raise UserError(
            f"path={source.store.location}: the tars of split {split!r} lie in several folders ({folders[0] or '.'},"
            f" {folders[1]}, ...); adopt each folder alone, or give a narrower {split}="
        )
    bad = next((tar for tar in source.tars[split] if not PLAIN_NAME.fullmatch(tar.rpartition("/")[2])), None)
    if bad is not None:
        raise UserError(f"{source.store.location}/{bad}: letters, digits and _ . - make a shard's name; rename it")
    if not is_local(source.store):
        return "/".join(filter(None, [source.store.location.rstrip("/"), folders[0]]))
    shards = (Path(source.store.location) / folders[0]).resolve()
    if is_local(out):
        root = Path(out.location).resolve()
        if shards == root / split:
            return None
        if shards.is_relative_to(root):
            return shards.relative_to(root).as_posix()
    return str(shards)


def _receipts(source: WebDatasetSource, split: str, out: Store, config: IndexConfig) -> list[Receipt]:
    """Return what was found in each tar of a split, read now or by an earlier run; sidecars are written."""
    tars = source.tars[split]
    receipts: dict[str, Receipt] = {}
    with (
        Progress(total=len(tars), unit="shards", label=f"indexing {split}") as progress,
        ThreadPoolExecutor(config.workers or os.cpu_count() or 1) as pool,
    ):
        for tar, receipt in _in_order(pool, source, split, out, tars, choices=_choices(source, config)):
            receipts[tar] = receipt
            num_rejected = sum(len(each["rejected"]) for each in receipts.values())
            progress.update(1, receipt["entry"]["filesize"] if receipt["entry"] else 0)
            progress.note(rejected=num_rejected)
            if num_rejected > config.max_rejected:
                first = next(row for each in receipts.values() for row in each["rejected"])
                raise UserError(
                    f"{first['source_key']}: {first['reason']}; {num_rejected} bad samples are more than"
                    f" max_rejected={config.max_rejected}: add max_rejected={num_rejected} (or more) to leave them out"
                )
    log.info("indexed %s: %s", split, progress.summary())
    return [receipts[tar] for tar in tars if tar in receipts]


def _in_order(
    pool: ThreadPoolExecutor, source: WebDatasetSource, split: str, out: Store, tars: list[str], *, choices: str
) -> Iterator[tuple[str, Receipt]]:
    """Yield each tar that holds a sample with its receipt, a few being read at once."""
    number_of = {tar: number for number, tar in enumerate(tars)}
    waiting: list[tuple[str, Future[Receipt]]] = []
    try:
        for tar, found in groupby(source.samples(split), key=lambda one: one.tar):
            name = f"{PLAN_FOLDER}/{split}-{number_of[tar]:06d}{RECEIPT_SUFFIX}"
            waiting.append((tar, pool.submit(_receipt, source, split, name, tar, list(found), out, choices=choices)))
            if len(waiting) > 2 * pool._max_workers:
                first, future = waiting.pop(0)
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


def _choices(source: WebDatasetSource, config: IndexConfig) -> str:
    """Return a checksum of what decides a sidecar's rows besides its tar; without `classes=`, that is every tar."""
    spelled = json.dumps([config.image, config.label_field, source.task.value, source.classes])
    return hashlib.sha256(spelled.encode()).hexdigest()


def _receipt(
    source: WebDatasetSource, split: str, name: str, tar: str, found: list[Found], out: Store, *, choices: str
) -> Receipt:
    """Index one tar, or take what an earlier run left of it."""
    identity = {
        "tar": tar,
        "size_bytes": source.store.size_of(tar),
        "modified_ns": _modified_ns(source.store, tar),
        "choices": choices,
    }
    if (receipt := _stored(out, name, split)) is not None and receipt["identity"] == identity:
        return receipt
    indexed = index_tar(source.store, tar, found, url=tar.rpartition("/")[2], reasons=source.reasons)
    if indexed.content is not None and indexed.entry is not None:
        with out.publish(f"{split}/{indexed.entry['index']['url']}") as stream:
            stream.write(indexed.content)
    rejected = [{"split": split, "source_key": key, "reason": reason} for key, reason in indexed.rejected]
    receipt = {"identity": identity, "entry": indexed.entry, "rejected": rejected}
    with out.publish(name) as stream:
        stream.write(json.dumps(receipt, ensure_ascii=False).encode())
    return receipt


def _modified_ns(store: Store, tar: str) -> int | None:
    path = store.local_path(tar)
    return None if path is None else path.stat().st_mtime_ns


def _stored(out: Store, name: str, split: str) -> Receipt | None:
    try:
        receipt: Receipt = json.loads(out.read_bytes(name, max_bytes=MAX_RECEIPT_BYTES))
        entry = receipt["entry"]
        if entry and out.size_of(f"{split}/{entry['index']['url']}") != entry["index"]["filesize"]:
            return None
        return receipt if {"identity", "rejected"} <= receipt.keys() else None
    except (UserError, ValueError, KeyError, TypeError):
        return None
