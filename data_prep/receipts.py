"""What finished shard tasks left: one receipt each while preparation goes on, all in one sealed file afterwards.

    receipts = read_receipts(store, tasks)              # of the finished ones, by the receipt's name
    publish_ledger(store, tasks, receipts)              # plan/receipts.jsonl; the single files can go

The ledger is what `repair` holds a damaged data set against.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from data_prep.shard_task import PLAN_FOLDER, RECEIPT_SUFFIX, ShardTask, read_receipt
from data_prep.store_file import open_stored
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
    """Write all receipts, one a line, then the checksums of the plan's other files, then the SHA-256 of these lines."""
    digest = hashlib.sha256()
    with store.publish(LEDGER_NAME) as stream:
        for task in tasks:
            kept = {name: value for name, value in receipts[task.receipt_name].items() if name not in PASSING}
            line = json.dumps({"receipt": task.receipt_name, **kept}, ensure_ascii=False).encode() + b"\n"
            digest.update(line)
            stream.write(line)
        line = json.dumps({"files": {name: stored_sha256(store, name) for name in _plan_files(store)}}).encode() + b"\n"
        digest.update(line)
        stream.write(line + _last_line(digest.hexdigest()))


def _last_line(sha256: str) -> bytes:
    return json.dumps({"sha256": sha256}).encode() + b"\n"


def _plan_files(store: Store) -> list[str]:
    """Return what lies beside the ledger for good."""
    names = [file.name for file in store.list_files(PLAN_FOLDER)]
    return [name for name in names if name != LEDGER_NAME and not name.endswith(RECEIPT_SUFFIX)]


def stored_sha256(store: Store, name: str) -> str:
    """Return the SHA-256 of a stored file's bytes."""
    with open_stored(store, name) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_ledger(store: Store) -> tuple[Receipts, dict[str, str]] | None:
    """Return a finished data set's receipts, and the SHA-256 of its plan's files; None where the ledger is damaged."""
    try:
        content = store.read_bytes(LEDGER_NAME, max_bytes=MAX_LEDGER_BYTES)
        *lines, files, last = content.splitlines(keepends=True)
        if last != _last_line(hashlib.sha256(b"".join([*lines, files])).hexdigest()):
            return None
        receipts = [json.loads(line) for line in lines]
        return {receipt.pop("receipt"): receipt for receipt in receipts}, dict(json.loads(files)["files"])
    except (UserError, ValueError, KeyError, TypeError):
        return None


def find_plan_damage(store: Store) -> Iterator[str]:
    """Yield a line for each file of the plan that is not what the ledger says; where there is no plan, nothing.

    The plan is no part of the data set, which is whole without it, but `repair` goes by it.
    """
    if store.size_of(LEDGER_NAME) is None:
        return
    ledger = read_ledger(store)
    if ledger is None:
        yield f"{store.location}/{LEDGER_NAME}: damaged"
        return
    for name, sha256 in ledger[1].items():
        if store.size_of(name) is None:
            yield f"{store.location}/{name}: missing"
        elif stored_sha256(store, name) != sha256:
            yield f"{store.location}/{name}: its SHA-256 is not the ledger's"
