"""`python -m data_prep.repair path=DIR`: rebuild what is damaged in a data set, and nothing else, from its source.

Every shard and sidecar is held against the ledger of the preparation; those that differ are built again from the
plan, which gives the same bytes. Manifests, rejected.jsonl and dataset.json are written again from the ledger. What the
preparation did not make goes from the splits' folders. Exit code 0 when the data set is whole again, else 2.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from data_prep.card.stored_set import crcs_name
from data_prep.config import PREPARE_SCHEMAS, REPAIR_SCHEMAS, EngineConfig, PrepareConfig, RepairConfig
from data_prep.finish import finish
from data_prep.prepare import build_missing, held_output, planned_tasks, stored_plan
from data_prep.progress import Progress
from data_prep.receipts import Receipts, read_ledger, stored_sha256
from data_prep.shard_task import ShardTask, opened_source
from pipeline.compose import compose, from_plain, help_text
from pipeline.shards.errors import DamageError, UserError, run_entry_point
from pipeline.shards.manifest import DATA_SET_FILE, MANIFEST_FILE, MAX_JSON_BYTES, is_sealed
from pipeline.storage import Store, open_store

SUMMARY = """Rebuild the damaged shards of a data set from its source.

  python -m data_prep.repair path=data/imagenet
  python -m data_prep.repair path=data/imagenet root=/new/place/of/the/archives

What is damaged: python -m data_prep.verify path=..."""

log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("repair", REPAIR_SCHEMAS, summary=SUMMARY))
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config: RepairConfig = compose("repair", REPAIR_SCHEMAS, argv)
    repaired = repair(config.path, root=config.root, engine=config.engine)
    sys.stdout.write(f"{config.path}: {repaired} shard{'' if repaired == 1 else 's'} rebuilt; whole\n")
    return 0


def repair(path: str, *, root: str | None, engine: EngineConfig) -> int:
    """Make a damaged data set whole and return how many shards were rebuilt.

    Args:
        path: of the data set, a folder or URL.
        root: where the source lies now; None where it is where it was.
        engine: what builds.

    Raises:
        UserError: the data set says no more how it was made, or its source is gone or has changed.
    """
    store = open_store(path)
    choices, stored = _choices(store)
    config = _config(choices, path=path, root=root, engine=engine)
    source = opened_source(config, anew=True)
    with held_output(store):
        tasks = planned_tasks(store, config, source, choices=choices, stored=stored, begin_again=False)
        ledger, files = read_ledger(store) or (None, {})
        if ledger is None:
            log.info("%s: the ledger of its preparation is missing or damaged: every shard is built again", path)
        sound = _sound_receipts(store, tasks, ledger or {}, files)
        receipts = build_missing(store, config, tasks, sound)
        for task in tasks:
            _tell_other_bytes(store, task, (ledger or {}).get(task.receipt_name), receipts[task.receipt_name])
        _remove_strangers(store, tasks, receipts)
        finish(store, config, source, tasks, receipts, choices=choices)
    return len(tasks) - len(sound)


def _choices(store: Store) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return what the data set was prepared with, and its plan.json where that says the same.

    dataset.json is asked first, as a seal vouches for it.
    """
    try:
        stored = stored_plan(store)
    except DamageError:
        stored = None
    if store.size_of(DATA_SET_FILE) is not None:
        raw = store.read_bytes(DATA_SET_FILE, max_bytes=MAX_JSON_BYTES)
        if is_sealed(raw):
            choices: dict[str, Any] = json.loads(raw)["provenance"]
            return choices, stored if stored is not None and stored["choices"] == choices else None
    if stored is None:
        raise UserError(
            f"path={store.location}: neither plan/plan.json nor a whole {DATA_SET_FILE} says how it was made;"
            " prepare it again"
        )
    return stored["choices"], stored


def _config(choices: dict[str, Any], *, path: str, root: str | None, engine: EngineConfig) -> PrepareConfig:
    try:
        source, layout = dict(choices["source"]), dict(choices["layout"])
        if root is not None:
            source["root"] = root
        return PrepareConfig(
            out=path,
            seed=choices["seed"],
            classes=choices.get("classes"),
            max_rejected=sys.maxsize,  # what was let pass is in the ledger; this is no new decision
            source=from_plain(PREPARE_SCHEMAS[f"source/{source.pop('kind')}"], source),
            layout=from_plain(PREPARE_SCHEMAS[f"layout/{layout.pop('kind')}"], layout),
            engine=engine,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DamageError(f"{path}: its plan is not of the form that this version writes ({error!r})") from None


def _sound_receipts(store: Store, tasks: list[ShardTask], ledger: Receipts, files: dict[str, str]) -> Receipts:
    """Return the receipts of the tasks whose shard, sidecar and checksums of images are those of the ledger."""
    sound: Receipts = {}
    # A store of its own, as one keeps files open, also after a worker has put others in their place.
    store = open_store(store.location)
    with Progress(total=len(tasks), unit="shards", label="checking") as progress:
        for task in tasks:
            receipt = ledger.get(task.receipt_name)
            if receipt is not None and _is_sound(store, task, receipt["entry"], files):
                sound[task.receipt_name] = receipt
            progress.update(1, receipt["entry"]["filesize"] if receipt and receipt["entry"] else 0)
    return sound


def _is_sound(store: Store, task: ShardTask, entry: dict[str, Any] | None, files: dict[str, str]) -> bool:
    if entry is None:
        return True
    wanted = {f"{task.split}/{file['url']}": file["sha256"] for file in (entry, entry["index"])}
    crcs = crcs_name(task.split, entry["url"])
    wanted |= {name: sha256 for name, sha256 in files.items() if name == crcs}
    return all(store.size_of(name) is not None and stored_sha256(store, name) == wanted[name] for name in wanted)


def _tell_other_bytes(store: Store, task: ShardTask, before: dict[str, Any] | None, now: dict[str, Any]) -> None:
    if before is not None and before["entry"] != now["entry"]:
        log.warning(
            "%s/%s: shard %d was rebuilt with other bytes than it had: the source's images or the versions of the"
            " libraries that decode them have changed; runs on the old data set will not resume on this one",
            store.location,
            task.split,
            task.number,
        )


def _remove_strangers(store: Store, tasks: list[ShardTask], receipts: Receipts) -> None:
    """Remove what the preparation did not make from the splits' folders, which hold nothing else."""
    entries = [(task.split, receipts[task.receipt_name]["entry"]) for task in tasks]
    known = {f"{split}/{file['url']}" for split, entry in entries if entry for file in (entry, entry["index"])}
    for split in {task.split for task in tasks}:
        for file in store.list_files(split):
            if file.name not in known and file.name != f"{split}/{MANIFEST_FILE}":
                log.info("removing %s/%s, which is no part of the data set", store.location, file.name)
                store.remove(file.name)


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
