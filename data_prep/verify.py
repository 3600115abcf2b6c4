"""`python -m data_prep.verify path=DIR`: re-read every byte of a data set and say what is damaged.

Exit code 0 when it is whole, 1 when damage was found (each fault on a line, naming shard and record), 2 when
there is no data set to verify.
"""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.card.page import CARD_FILE, is_sealed_card
from data_prep.config import MAX_PIXELS_LIMIT, VERIFY_SCHEMAS, EncodedLayoutConfig, VerifyConfig
from data_prep.encode import check_decodable
from data_prep.progress import Progress
from data_prep.receipts import find_plan_damage
from data_prep.sources.base import Rejected
from data_prep.store_file import open_stored
from data_prep.view import data_set_view, shard_place
from pipeline.compose import compose, help_text
from pipeline.shards.check import file_sha256, find_damage, find_malformed
from pipeline.shards.errors import DamageError, UserError, run_entry_point
from pipeline.shards.index import INDEX_SUFFIX, read_index
from pipeline.shards.manifest import MANIFEST_FILE, MAX_JSON_BYTES, REJECTED_FILE, DataSet, ShardEntry, Split
from pipeline.storage import Store, is_local, open_store

SUMMARY = """Re-read a data set: counts, tar structure, checksums, labels, some decoded images.

  python -m data_prep.verify path=data/cifar10

Exit code 0: whole. 1: damaged, each fault on a line. 2: nothing to verify."""
EXIT_DAMAGED = 1
COPY_BYTES = 8 << 20


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("verify", VERIFY_SCHEMAS, summary=SUMMARY))
        return 0
    config: VerifyConfig = compose("verify", VERIFY_SCHEMAS, argv)
    num_faults, is_foreign = 0, False
    try:
        store = open_store(config.path)
        with data_set_view(store) as data_set:
            is_foreign = data_set.is_foreign
            for fault in find_faults(store, data_set, num_decoded=config.decode):
                sys.stdout.write(f"damaged: {fault}\n")
                num_faults += 1
    except DamageError as error:
        sys.stdout.write(f"damaged: {error}\n")
        num_faults = 1
    if num_faults:
        faults = f"{num_faults} fault{'s' if num_faults > 1 else ''}"
        mend = f"to mend: python -m data_prep.repair {shlex.quote(f'path={config.path}')}"
        if is_foreign:
            mend = "to mend: get these tars again, or, if they are right, adopt them anew"
        sys.stdout.write(f"{config.path}: {faults}; {mend}\n")
        return EXIT_DAMAGED
    counts = ", ".join(f"{split.num_samples:,} {name}" for name, split in data_set.splits.items())
    sys.stdout.write(f"{config.path}: whole: {counts} samples\n")
    return 0


def find_faults(store: Store, data_set: DataSet, *, num_decoded: int) -> Iterator[str]:
    """Yield a line for each fault in any split of `data_set`, whose files lie in `store`.

    What lies in a remote store is fetched, one shard after the other.
    """
    for fault in _find_faults(store, data_set, num_decoded=num_decoded):
        yield fault.replace(str(data_set.root), store.location)


def _find_faults(store: Store, data_set: DataSet, *, num_decoded: int) -> Iterator[str]:
    yield from _find_rejected_damage(data_set)
    yield from _find_card_damage(store)
    yield from find_plan_damage(store)
    total = sum(len(split.shards) for split in data_set.splits.values())
    with Progress(total=total, unit="shards", label="verifying") as progress:
        for split in data_set.splits.values():
            yield from _find_strangers(store, split, is_foreign=data_set.is_foreign)
            for shard in split.shards:
                yield from _find_shard_faults(store, data_set, split, shard, num_decoded=num_decoded)
                progress.update(1, shard.size_bytes)


def _find_rejected_damage(data_set: DataSet) -> Iterator[str]:
    path = data_set.root / REJECTED_FILE
    if not path.is_file():
        yield f"{path}: missing"
    elif file_sha256(path) != data_set.rejected_sha256:
        yield f"{path}: its SHA-256 is not that of the data set"


def _find_card_damage(store: Store) -> Iterator[str]:
    """Yield a line where card.html is there and is not as it was made."""
    if store.size_of(CARD_FILE) is None or is_sealed_card(store.read_bytes(CARD_FILE, max_bytes=MAX_JSON_BYTES)):
        return
    yield f"{store.location}/{CARD_FILE}: damaged; python -m data_prep.card makes it again"


def _find_shard_faults(
    store: Store, data_set: DataSet, split: Split, shard: ShardEntry, *, num_decoded: int
) -> Iterator[str]:
    """Yield the faults of one shard; where it or its sidecar is remote, of a copy that is fetched for the while."""
    shard_store, shard_name = shard_place(store, split, shard)
    index_name = f"{split.name}/{shard.index_path.name}"
    with tempfile.TemporaryDirectory() as folder:
        path = shard.path if is_local(shard_store) else _fetched(shard_store, shard_name, Path(folder) / "shard")
        index_path = shard.index_path if is_local(store) else _fetched(store, index_name, Path(folder) / "index")
        here = dataclasses.replace(shard, path=path, index_path=index_path)
        faults = list(find_damage(data_set, here))
        if not faults:
            faults += find_malformed(data_set, here)
        if not faults and data_set.packed is None:
            faults += _find_undecodable(here, num_decoded=num_decoded)
        for fault in faults:
            fault = fault.replace(f"{folder}/shard", shard_store.location)
            yield fault.replace(f"{folder}/index", store.location)


def _fetched(store: Store, name: str, folder: Path) -> Path:
    """Copy a stored file, if it is there, into a folder and return the copy's path."""
    copy = folder / name
    copy.parent.mkdir(parents=True)
    if store.size_of(name) is not None:
        with open_stored(store, name) as stream, copy.open("wb") as written:
            shutil.copyfileobj(stream, written, COPY_BYTES)
    return copy


def _find_strangers(store: Store, split: Split, *, is_foreign: bool) -> Iterator[str]:
    """Yield files beside the shards that the manifest does not know; beside foreign ones, shards and sidecars alone."""
    known = {MANIFEST_FILE, *(s.path.name for s in split.shards), *(s.index_path.name for s in split.shards)}
    for name in _names_in(store, split.name):
        if name not in known and (not is_foreign or name.endswith((".tar", INDEX_SUFFIX))):
            yield f"{store.location}/{split.name}/{name}: not in the manifest"


def _names_in(store: Store, folder: str) -> list[str]:
    """Return what lies in a split's folder; a server that cannot list shows nothing."""
    if is_local(store):
        return sorted(path.name for path in (Path(store.location) / folder).iterdir())
    try:
        return [file.name.removeprefix(f"{folder}/") for file in store.list_files(folder)]
    except UserError:
        return []


def _find_undecodable(shard: ShardEntry, *, num_decoded: int) -> Iterator[str]:
    rows = read_index(shard.index_path, num_samples=shard.num_samples)
    config = EncodedLayoutConfig(max_pixels=MAX_PIXELS_LIMIT)
    with shard.path.open("rb") as stream:
        for record in np.unique(np.linspace(0, len(rows) - 1, num_decoded).astype(int)):
            row = rows[record]
            stream.seek(int(row["image_offset"]))
            try:
                size = check_decodable(stream.read(int(row["image_bytes"])), config=config)
            except Rejected as reason:
                yield f"{shard.path}: record {record}: {reason}"
                continue
            if size != (int(row["width"]), int(row["height"])):
                yield f"{shard.path}: record {record}: {size[0]}x{size[1]}, its sidecar says another size"


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
