"""Everything that a card shows, gathered from a finished data set.

    store = open_store("data/pets")
    with data_set_view(store) as data_set:
        facts = gather_facts(data_set, store=store)

Sidecars are read shard by shard, images only for the grid and the duplicates: memory does not grow with the images but
for 16 bytes a sample while duplicates are sought. Nothing depends on a clock, a host or the path of the data set.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.card.command import command_of
from data_prep.card.duplicates import Duplicates, find_duplicates
from data_prep.card.facts import (
    CardFacts,
    DuplicateFacts,
    DuplicateGroup,
    RejectedFacts,
    RejectedItem,
    SampleFacts,
    SplitFacts,
)
from data_prep.card.samples import PickedIds, thumbnail
from data_prep.card.sizes import SizeHistogram
from data_prep.card.stored_set import StoredSet, StoredShard
from data_prep.card.target_sums import TargetSums
from pipeline.shards.errors import DamageError
from pipeline.shards.index import IndexRows
from pipeline.shards.keyed import make_key
from pipeline.shards.manifest import DATA_SET_FILE, REJECTED_FILE, DataSet, Split
from pipeline.shards.task import Task
from pipeline.storage import Store

# Pictures of the first split's samples, and of each other split's; spread evenly over up to so many classes.
NUM_PICTURES = 60
NUM_OTHER_PICTURES = 20
MAX_PICTURED_SPLITS = 4
MAX_EVEN_CLASSES = 20
MAX_SHOWN_GROUPS = 12
MAX_SHOWN_MEMBERS = 6
MAX_SHOWN_REJECTED = 50
MAX_REASONS = 1000
MAX_PROVENANCE_ROWS = 200
MAX_PROVENANCE_DEPTH = 8
OTHER_REASONS = "other reasons"
SOURCE_SIZES = "source_sizes"


def gather_facts(data_set: DataSet, *, store: Store, command: str | None = None) -> CardFacts:
    """Read a finished data set's sidecars, and as many of its images as the card needs.

    Args:
        data_set: as `data_set_view` gave it.
        store: where its files are.
        command: what to type to make the data set again; where None, it is spelled from the provenance.

    Raises:
        UserError: a file cannot be read.
        DamageError: a file is missing or is not what the manifest says.
    """
    stored = StoredSet(data_set=data_set, store=store)
    stored.fetch_sidecars()
    # read_data_set has checked it.
    content = json.loads((data_set.root / DATA_SET_FILE).read_bytes())
    provenance = content.get("provenance")
    provenance = provenance if isinstance(provenance, dict) else {}
    sizes_after = SizeHistogram()
    splits, samples = [], []
    for number, split in enumerate(data_set.splits.values()):
        num_pictures = (NUM_PICTURES if number == 0 else NUM_OTHER_PICTURES) if number < MAX_PICTURED_SPLITS else 0
        counted, picked = _count_split(stored, split, sizes=sizes_after, num_pictures=num_pictures)
        splits.append(counted)
        samples += read_samples(stored, [(split.name, number) for number in picked], pictured=True)
    duplicates = find_duplicates(stored)
    statistics = data_set.statistics
    mean, std = (statistics.mean, statistics.std) if statistics else ((), ())
    return CardFacts(
        name=data_set.name,
        task=data_set.task,
        classes=data_set.classes,
        class_ids=data_set.class_ids,
        packed=data_set.packed,
        splits=tuple(splits),
        channels={0: (), 1: ("grey",), 3: ("red", "green", "blue")}[len(mean)],
        mean=mean,
        std=std,
        sizes_before=_read_source_sizes(content.get(SOURCE_SIZES)),
        sizes_after=sizes_after,
        samples=tuple(samples),
        duplicates=_duplicate_facts(stored, duplicates) if duplicates is not None else None,
        rejected=_rejected_facts(data_set),
        provenance=tuple(islice(_flat(provenance), MAX_PROVENANCE_ROWS)),
        command=command or command_of(provenance, num_rejected=data_set.num_rejected),
    )


def _read_source_sizes(value: Any) -> SizeHistogram | None:
    """Return the sizes of the source's images where dataset.json has them, in a form that we know."""
    try:
        return SizeHistogram.from_plain(value)
    except ValueError:
        return None


def read_samples(stored: StoredSet, places: list[tuple[str, int]], *, pictured: bool) -> list[SampleFacts]:
    """Look up samples given by (split, id), in their order, with small pictures where `pictured`."""
    found = []
    for name, number in places:
        shard, record = _locate(stored, name, number)
        row = stored.rows(shard)[record]
        targets = tuple(row["targets"].tolist()) if stored.data_set.task is Task.regression else ()
        picture = None
        if pictured:
            image = stored.read_at(shard, offset=int(row["image_offset"]), size_bytes=int(row["image_bytes"]))
            picture = thumbnail(image, packed=stored.data_set.packed)
        found.append(
            SampleFacts(
                split=name,
                id=number,
                labels=() if targets else tuple(label for label in labels_of(row[None])[0].tolist() if label >= 0),
                targets=targets,
                source_key=bytes(row["source_key"]).decode("utf-8", "replace"),
                width=int(row["width"]),
                height=int(row["height"]),
                picture=picture,
            )
        )
    return found


def labels_of(rows: IndexRows) -> npt.NDArray[np.int64]:
    """Return the labels of sidecar rows, int64 (rows, labels), -1 where there is none; of targets their bits."""
    names = rows.dtype.names or ()
    if "targets" in names:
        bits = (rows["targets"] + np.float32(0)).view(np.uint32)  # a sum is never -0
        return bits.astype(np.int64)
    return rows["labels" if "labels" in names else "label"].reshape(len(rows), -1).astype(np.int64)


def _count_split(
    stored: StoredSet, split: Split, *, sizes: SizeHistogram, num_pictures: int
) -> tuple[SplitFacts, list[int]]:
    """Count a split, add to `sizes`, and return its counts and the ids of the samples to show."""
    num_classes = stored.data_set.num_classes
    has_targets = stored.data_set.task is Task.regression
    target_sums = TargetSums(num_classes)
    class_counts = np.zeros(num_classes, dtype=np.int64)
    label_counts = np.zeros(1, dtype=np.int64)
    even = stored.data_set.task is Task.classification and num_classes <= MAX_EVEN_CLASSES
    num_each = num_pictures // num_classes if even else num_pictures
    picked = PickedIds(key=make_key("card", split.name), num_each=num_each)
    first_id = 0
    for shard in stored.shards(split.name):
        rows = stored.rows(shard)
        groups = np.zeros(len(rows), dtype=np.int64)
        if has_targets:
            target_sums.add(rows["targets"])
        else:
            labels = labels_of(rows)
            groups = labels[:, 0] if even else groups
            class_counts += np.bincount(labels[labels >= 0], minlength=num_classes)
            counted = np.bincount((labels >= 0).sum(axis=1))
            longer, shorter = sorted((label_counts, counted), key=len, reverse=True)
            label_counts = longer.copy()
            label_counts[: len(shorter)] += shorter
        sizes.add_many(rows["width"], rows["height"])
        if num_pictures:
            picked.add(groups=groups, first_id=first_id)
        first_id += len(rows)
    facts = SplitFacts(
        name=split.name,
        num_samples=split.num_samples,
        num_shards=len(split.shards),
        size_bytes=sum(shard.size_bytes for shard in split.shards),
        class_counts=() if has_targets else tuple(class_counts.tolist()),
        label_counts=() if has_targets else tuple(label_counts.tolist()),
        targets=target_sums.facts() if has_targets else (),
    )
    return facts, picked.ids()


def _locate(stored: StoredSet, split: str, number: int) -> tuple[StoredShard, int]:
    """Return the shard of sample `number` of a split, and its place there."""
    for shard in stored.shards(split):
        if number < shard.entry.num_samples:
            return shard, number
        number -= shard.entry.num_samples
    raise IndexError(f"split {split}: no sample {number}")


def _duplicate_facts(stored: StoredSet, duplicates: Duplicates) -> DuplicateFacts:
    spread = (duplicates.group_sizes() > 0).sum(axis=1)
    # Leakage first; among equals, in the order of the samples.
    shown = np.argsort(-spread, kind="stable")[:MAX_SHOWN_GROUPS].tolist()
    examples = []
    for number in shown:
        first, *others = duplicates.group(number, limit=MAX_SHOWN_MEMBERS)
        start, end = duplicates.group_starts[number : number + 2]
        members = read_samples(stored, [first], pictured=True) + read_samples(stored, others, pictured=False)
        examples.append(DuplicateGroup(num_members=int(end - start), members=tuple(members)))
    return DuplicateFacts(
        num_groups=duplicates.num_groups,
        num_conflicting=count_conflicting(stored, duplicates),
        copies=tuple((split, duplicates.num_copies(split)) for split in duplicates.splits),
        shared=tuple(
            (split, other, duplicates.num_shared(split, other)) for other, split in combinations(duplicates.splits, 2)
        ),
        examples=tuple(examples),
    )


def count_conflicting(stored: StoredSet, duplicates: Duplicates) -> int:
    """Return the number of groups of equal images whose members do not all carry the same labels."""
    if not duplicates.num_groups:
        return 0
    order = np.argsort(duplicates.numbers)
    in_order = duplicates.numbers[order]
    digests = np.empty(len(order), dtype=np.uint64)
    for shard in stored.shards():
        first, end = np.searchsorted(in_order, [shard.start, shard.end])
        if first < end:
            digests[order[first:end]] = _label_digests(stored.rows(shard)[in_order[first:end] - shard.start])
    starts = duplicates.group_starts[:-1]
    differs = np.minimum.reduceat(digests, starts) != np.maximum.reduceat(digests, starts)
    return int(np.count_nonzero(differs))


def _label_digests(rows: IndexRows) -> npt.NDArray[np.uint64]:
    """Return 64 bits for each row, the same where its labels or targets are: some samples have thousands of them."""
    texts = (labels[labels >= 0].tobytes() for labels in labels_of(rows))
    digests = (int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") for text in texts)
    return np.fromiter(digests, dtype=np.uint64, count=len(rows))


def _rejected_facts(data_set: DataSet) -> RejectedFacts:
    """Read rejected.jsonl line by line; reasons that differ in numbers alone are counted as one."""
    counts: Counter[str] = Counter()
    spellings: dict[str, str] = {}
    examples: list[RejectedItem] = []
    for item in _read_rejected(data_set.root / REJECTED_FILE):
        kind = re.sub(r"\d+", "…", item.reason)
        if kind not in counts and len(counts) >= MAX_REASONS:
            kind = OTHER_REASONS
        # One spelling is shown as it is.
        if spellings.setdefault(kind, item.reason) != item.reason:
            spellings[kind] = kind
        counts[kind] += 1
        if len(examples) < MAX_SHOWN_REJECTED:
            examples.append(item)
    reasons = sorted(counts, key=lambda kind: (-counts[kind], kind))
    return RejectedFacts(
        num_items=counts.total(),
        reasons=tuple((spellings[kind], counts[kind]) for kind in reasons),
        examples=tuple(examples),
    )


def _read_rejected(path: Path) -> Iterator[RejectedItem]:
    try:
        with path.open(encoding="utf-8") as stream:
            for line in stream:
                row = json.loads(line)
                yield RejectedItem(**{name: str(row[name]) for name in ("split", "source_key", "reason")})
    except FileNotFoundError:
        raise DamageError(f"{path}: missing") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamageError(f"{path}: not of the form in docs/FORMAT.md ({error!r})") from None


def _flat(value: Any, *, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted name, text) of every scalar in plain JSON."""
    if isinstance(value, dict) and path.count(".") < MAX_PROVENANCE_DEPTH:
        for name, inner in value.items():
            yield from _flat(inner, path=f"{path}.{name}" if path else name)
    elif isinstance(value, str):
        yield path, value
    else:
        yield path, json.dumps(value, ensure_ascii=False)
