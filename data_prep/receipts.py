"""What finished shard tasks left: one receipt each while preparation goes on, all in one sealed file afterwards.

    receipts = read_receipts(store, tasks)              # of the finished ones, by the receipt's name
    publish_ledger(store, tasks, receipts)              # plan/receipts.jsonl; the single files can go

The ledger is what `repair` holds a damaged data set against.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from data_prep.shard_task import PLAN_FOLDER, RECEIPT_SUFFIX, ShardTask, read_receipt
from pipeline.shards.errors import UserError
from pipeline.storage import Store

LEDGER_NAME = f"{PLAN_FOLDER}/receipts.jsonl"
MAX_LEDGER_BYTES = 4 << 30
READERS = 16
# How long a task took differs each time; the ledger's bytes do not.
PASSING = ("seconds",)

Receipt = dict[str, Any]
# By the name of the task's receipt.
Receipts = dict[str, Receipt]


def read_receipts(store: Store, tasks: Sequence[ShardTask]) -> Receipts:
    """Return the receipts of the tasks that are done and whose files are there."""
    there = {file.name for file in store.list_files(PLAN_FOLDER) if file.name.endswith(RECEIPT_SUFFIX)}
    begun = [task for task in tasks if task.receipt_name in there]
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda task: read_receipt(store, task), begun)
        return {task.receipt_name: receipt for task, receipt in zip(begun, found, strict=True) if receipt}


def remove_receipts(store: Store) -> None:
    """Remove what only an unfinished preparation needs."""
    for file in store.list_files(PLAN_FOLDER):
        if file.name.endswith(RECEIPT_SUFFIX):
            store.remove(file.name)


def publish_ledger(store: Store, tasks: Sequence[ShardTask], receipts: Mapping[str, Receipt]) -> None:
    """Write all receipts, one a line, and a last line with the SHA-256 of those before it."""
    digest = hashlib.sha256()
    with store.publish(LEDGER_NAME) as stream:
        for task in tasks:
            kept = {name: value for name, value in receipts[task.receipt_name].items() if name not in PASSING}
            line = json.dumps({"receipt": task.receipt_name, **kept}, ensure_ascii=False).encode() + b"\n"
            digest.update(line)
            stream.write(line)
        stream.write(json.dumps({"sha256": digest.hexdigest()}).encode() + b"\n")


def read_ledger(store: Store) -> Receipts | None:
    """Return the receipts of a finished data set, None where the ledger is missing or damaged."""
    try:
        content = store.read_bytes(LEDGER_NAME, max_bytes=MAX_LEDGER_BYTES)
        *lines, last = content.splitlines(keepends=True)
        if json.loads(last)["sha256"] != hashlib.sha256(b"".join(lines)).hexdigest():
            return None
        receipts = [json.loads(line) for line in lines]
        return {receipt.pop("receipt"): receipt for receipt in receipts}
    except (UserError, ValueError, KeyError, TypeError):
        return None
