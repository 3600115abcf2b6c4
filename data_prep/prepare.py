"""Preparation from end to end: source -> plan -> shard tasks -> manifests -> card -> dataset.json.

    prepare(config)     # type it again after any interruption; it ends with the same bytes

Everything that decides a byte stands in `plan/plan.json` of the output; one begun with other choices is refused, and
one begun with other images is begun again. `dataset.json` is written last: without it there is no data set. The output
is a folder, or a URL prefix of an object store.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.card.page import CARD_FILE
from data_prep.card.stored_set import CRCS_SUFFIX
from data_prep.config import PREPARE_SCHEMAS, PackedLayoutConfig, PrepareConfig
from data_prep.decode import library_versions
from data_prep.encode import packed_layout
from data_prep.engines import run_tasks
from data_prep.engines.board import end_left_jobs
from data_prep.finish import checked_rejected, finish, make_card
from data_prep.folders import created_folder, locked_folder
from data_prep.listing import Int64Array, Listing, ListingWriter
from data_prep.plan import RecordBytes, make_plan, shard_sizes, write_plan
from data_prep.progress import Progress
from data_prep.receipts import LEDGER_NAME, Receipts, read_receipts, remove_receipts
from data_prep.shard_task import (
    PLAN_FOLDER,
    STAGES,
    ShardTask,
    opened_source,
    planned_name,
)
from data_prep.sources.base import Source
from data_prep.store_file import open_stored
from data_prep.view import data_set_view
from pipeline.compose import first_difference, to_plain
from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.manifest import (
    DATA_SET_FILE,
    FORMAT_VERSION,
    DataSet,
)
from pipeline.shards.publish import PART_SUFFIX, remove_part_files
from pipeline.shards.record import BLOCK_BYTES
from pipeline.storage import Store, is_local, open_store

log = logging.getLogger(__name__)

PLAN_NAME = f"{PLAN_FOLDER}/plan.json"
MAX_PLAN_BYTES = 64 << 20


def prepare(config: PrepareConfig) -> DataSet:
    """Make the data set that `config` describes, going on from whatever an earlier run finished.

    Raises:
        UserError: a bad source or option, too little disk, too many bad items, or `out` holds something else.
    """
    store = open_store(config.out)
    if store.size_of(DATA_SET_FILE) is not None:
        return _finished(store, config)
    if store.size_of(PLAN_NAME) is None and _holds_other_things(store):
        raise UserError(f"out={config.out}: not empty and not begun by data_prep; choose another folder")
    source = opened_source(config, anew=True)
    with held_output(store):
        if store.size_of(DATA_SET_FILE) is not None:
            return _finished(store, config)
        choices, stored = choices_of(config), stored_plan(store)
        if stored is not None:
            _check_same_choices(stored, config, choices)
        tasks = planned_tasks(store, config, source, choices=choices, stored=stored)
        receipts = build_missing(store, config, tasks, read_receipts(store, tasks))
        finish(store, config, source, tasks, receipts, choices=choices)
    with data_set_view(store) as data_set:
        return data_set


@contextmanager
def held_output(store: Store) -> Iterator[None]:
    """Own a local output for the block, made if need be, and leave nothing half-done in it.

    An object store has no folders and no locks; two that write there at once write the same bytes.
    """
    if not is_local(store):
        yield
        return
    out = Path(store.location)
    busy = f"out={out}: another preparation is writing there"
    with created_folder(out, option="out"), locked_folder(out, busy=busy, wait=False):
        end_left_jobs(out)
        remove_part_files(out)
        try:
            yield
        except BaseException:
            remove_part_files(out)  # of a worker that was killed
            if not (out / PLAN_NAME).exists():
                shutil.rmtree(out / PLAN_FOLDER, ignore_errors=True)
            raise


def _holds_other_things(store: Store) -> bool:
    if is_local(store):
        out = Path(store.location)
        return out.is_dir() and not (out / PLAN_FOLDER).is_dir() and any(out.iterdir())
    return bool(store.list_files())


def choices_of(config: PrepareConfig) -> dict[str, Any]:
    """Return everything in a config that decides a byte of the result."""
    return {
        "format_version": FORMAT_VERSION,
        "seed": config.seed,
        "source": {
            "kind": _kind(config.source),
            **to_plain(config.source),
        },
        "layout": {
            "kind": _kind(config.layout),
            **to_plain(config.layout),
        },
        "versions": {"tarmac": version("tarmac"), **library_versions()},
        # Not named where all are kept, as sets that were made before there was a choice do not name it.
        **({} if config.classes is None else {"classes": list(config.classes)}),
    }


def _kind(choice: Any) -> str:
    """Return the option that a group's config stands for, as it is typed."""
    return next(name.partition("/")[2] for name, schema in PREPARE_SCHEMAS.items() if schema is type(choice))


def _finished(store: Store, config: PrepareConfig) -> DataSet:
    """Return a data set that is there already, after checking that it is the wanted one."""
    plan = stored_plan(store)
    if plan is None:
        raise UserError(f"out={config.out}: holds a data set whose plan is gone; choose another folder")
    # Library versions matter only while bytes are still to be made.
    _check_same_choices(plan, config, {**choices_of(config), "versions": plan["choices"]["versions"]})
    # A run killed right after dataset.json leaves this.
    if store.size_of(CARD_FILE) is None:
        make_card(store)
    remove_receipts(store)
    log.info("%s is already prepared", config.out)
    with data_set_view(store) as data_set:
        return data_set


def stored_plan(store: Store) -> dict[str, Any] | None:
    """Return plan.json, None where there is none: {"choices": as choices_of, "splits": {name: fingerprint}}."""
    if store.size_of(PLAN_NAME) is None:
        return None
    try:
        plan = json.loads(store.read_bytes(PLAN_NAME, max_bytes=MAX_PLAN_BYTES))
        return {"choices": dict(plan["choices"]), "splits": dict(plan["splits"])}
    except (ValueError, KeyError, TypeError) as error:
        where = f"{store.location}/{PLAN_NAME}"
        raise DamageError(f"{where}: damaged ({error!r}); remove {store.location} or choose another out") from None


def _check_same_choices(plan: dict[str, Any], config: PrepareConfig, choices: dict[str, Any]) -> None:
    """Refuse an output begun with other choices."""
    if difference := first_difference(plan["choices"], choices):
        name, before, now = difference
        raise UserError(
            f"out={config.out}: was begun with {name}={before}, now {name}={now};"
            " choose another out, or remove that folder"
        )


def planned_tasks(
    store: Store,
    config: PrepareConfig,
    source: Source,
    *,
    choices: dict[str, Any],
    stored: dict[str, Any] | None,
    begin_again: bool = True,
) -> list[ShardTask]:
    """Make and store the plan, and return all shard tasks in order.

    The plan is pure, so a later run makes the same one; where it does not, the source has changed in between, and
    what was built from the old one goes.

    Args:
        choices: what the plan is stored with.
        stored: the plan of an earlier run, None where there is none that can be read.
        begin_again: where the source has changed; otherwise that is an error.
    """
    with _scratch(store) as scratch:
        listings = {split: _listed(source, split, scratch / f".{split}.arrow{PART_SUFFIX}") for split in source.splits}
        rooms = [listing.label_bytes for listing in listings.values() if listing.label_bytes]
        label_bytes = max(rooms, default=None)
        record_bytes = _record_bytes(config, source, label_bytes)
        plans = {
            split: make_plan(
                listing,
                split=split,
                seed=config.seed,
                record_bytes=record_bytes,
                shard_bytes=config.layout.shard_bytes,
            )
            for split, listing in listings.items()
        }
        fingerprints = {split: plan.fingerprint for split, plan in plans.items()}
        if stored is not None and stored["splits"] != fingerprints:
            if not begin_again:
                raise UserError(
                    f"source: is not what it was when {config.out} was made; prepare it again into another folder"
                )
            log.info("the source is not what it was when %s was begun: beginning again", config.out)
            _remove_splits(store, {*stored["splits"], *source.splits})
        for split, plan in plans.items():
            there = begin_again and store.size_of(planned_name(split)) is not None
            if not (there and stored is not None and stored["splits"] == fingerprints):
                with store.publish(planned_name(split)) as stream:
                    write_plan(plan, stream)
        tasks = [
            ShardTask(
                config=config, split=split, number=number, plan_fingerprint=plan.fingerprint, label_bytes=label_bytes
            )
            for split, plan in plans.items()
            for number in range(plan.num_shards)
        ]
        if is_local(store):
            _check_room(store, tasks, planned_bytes=sum(plan.stored_bytes for plan in plans.values()))
    content = json.dumps({"choices": choices, "splits": fingerprints}, indent=1, ensure_ascii=False) + "\n"
    with store.publish(PLAN_NAME) as stream:
        stream.write(content.encode())
    return tasks


@contextmanager
def _scratch(store: Store) -> Iterator[Path]:
    """Yield a folder for listings: inside a local output, whose disk has the room, else a temporary one."""
    if is_local(store):
        folder = Path(store.location) / PLAN_FOLDER
        folder.mkdir(exist_ok=True)
        try:
            yield folder
        finally:
            for path in folder.glob(f".*.arrow{PART_SUFFIX}"):
                path.unlink()
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


def _listed(source: Source, split: str, path: Path) -> Listing:
    """List a split into a file."""
    progress = Progress(total=None, unit="images", label=f"listing {split}")
    with progress, ListingWriter(path, task=source.task) as writer:
        for items in source.list_items(split):
            writer.add(items)
            progress.update(len(items))
    if not writer.listing.num_items:
        raise UserError(f"source: split {split!r} has no images")
    return writer.listing


def _remove_splits(store: Store, splits: set[str]) -> None:
    """Remove everything that was made of a source that has changed."""
    remove_receipts(store)
    store.remove(LEDGER_NAME)
    for file in store.list_files(PLAN_FOLDER):
        if file.name.endswith(CRCS_SUFFIX):
            store.remove(file.name)
    for split in splits:
        store.remove(planned_name(split))
        if is_local(store):
            shutil.rmtree(Path(store.location) / split, ignore_errors=True)
        else:
            for file in store.list_files(split):
                store.remove(file.name)


def _check_room(store: Store, tasks: list[ShardTask], *, planned_bytes: int) -> None:
    entries = [receipt["entry"] for receipt in read_receipts(store, tasks).values()]
    missing_bytes = planned_bytes - sum(entry["filesize"] for entry in entries if entry)
    free_bytes = shutil.disk_usage(store.location).free
    if missing_bytes > free_bytes:
        raise UserError(
            f"out={store.location}: {missing_bytes / 1e9:.3g} GB wanted, {free_bytes / 1e9:.3g} GB free on its disk;"
            " free some space or choose another out"
        )


def _record_bytes(config: PrepareConfig, source: Source, label_bytes: int | None) -> int | RecordBytes:
    """Return each record's length: one where packed; where encoded bytes are kept as they are, from their own."""
    if isinstance(config.layout, PackedLayoutConfig):
        return packed_layout(config.layout, native_shape=source.native_shape, label_bytes=label_bytes).record_bytes

    def of_sizes(sizes_bytes: Int64Array) -> Int64Array:
        return (3 - -sizes_bytes // BLOCK_BYTES) * BLOCK_BYTES

    return of_sizes


def build_missing(store: Store, config: PrepareConfig, tasks: list[ShardTask], receipts: Receipts) -> Receipts:
    """Build what has no receipt yet and return every task's."""
    receipts = dict(receipts)
    checked_rejected(receipts.values(), config)
    undone = [task for task in tasks if task.receipt_name not in receipts]
    if receipts and undone:
        log.info("going on: %d of %d shards are finished", len(receipts), len(tasks))
    sizes = {split: _num_items(store, split) for split in {task.split for task in undone}}
    if is_local(store):
        for split in sizes:
            (Path(store.location) / split).mkdir(exist_ok=True)
    seconds = dict.fromkeys(STAGES, 0.0)
    with Progress(
        total=sum(sizes[task.split][task.number] for task in undone), unit="images", label="preparing"
    ) as bar:
        for task, receipt in run_tasks(undone, engine=config.engine, on_progress=bar.update):
            receipts[task.receipt_name] = receipt
            if receipt["rejected"]:
                bar.note(rejected=len(checked_rejected(receipts.values(), config)))
            for stage, passed_s in receipt.get("seconds", {}).items():
                seconds[stage] += passed_s
    if undone and is_local(store):
        remove_part_files(Path(store.location))  # of workers that were killed, whose shards others built
    if undone:
        log.info("prepared %s in %.1f s; %s", bar.summary(), bar.seconds, _slowest(seconds))
    return receipts


def _num_items(store: Store, split: str) -> list[int]:
    with open_stored(store, planned_name(split)) as stream:
        return shard_sizes(pq.ParquetFile(stream))


def _slowest(seconds: dict[str, float]) -> str:
    """Name the part of the work that took longest, and the shares of all."""
    total_s = sum(seconds.values()) or 1.0
    slowest = max(seconds, key=lambda stage: seconds[stage])
    shares = ", ".join(f"{stage} {100 * passed_s / total_s:.0f} %" for stage, passed_s in seconds.items())
    return f"{slowest} took longest ({shares} of the workers' time)"
