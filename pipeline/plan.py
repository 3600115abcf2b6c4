"""`python -m pipeline.plan data.path=DIR order=window ...`: what a run would read, hold and shuffle, before it starts.

    plan = make_plan(config)                    # a few sections of a few rows
    sys.stdout.write(plan_text(plan))

No image is read: everything follows from the manifests, the labels in local sidecars and the order. A section is a
function from a `Planned` to rows; the tuple SECTIONS is the plan.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.build_data import build_order, plan_batch
from pipeline.compose import compose, help_text
from pipeline.config import TrainConfig
from pipeline.data.host_load import host_load
from pipeline.data.mixture import MixtureOrder
from pipeline.data.order import Int64Array, Order
from pipeline.data.remote_set import open_data_set
from pipeline.data.shard_cache import CacheOptions
from pipeline.data.shuffle_quality import Measure, shuffle_quality
from pipeline.data.window import WindowOrder
from pipeline.plan_config import PLAN_SCHEMAS, PlanConfig
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.shards.index import read_index
from pipeline.shards.manifest import DataSet, Split
from pipeline.shards.task import Task
from pipeline.storage import is_local, open_store

SUMMARY = """Say what a run would read, hold and shuffle, before it starts.

  python -m pipeline.plan data.path=data/imagenet-64 order=window batch.size=1024 ranks=8 hosts=2

Options that training has mean what they mean there. Sizes are in units of 1000."""
# Beyond so many samples their labels are not read: 8 bytes each.
MAX_LABELS = 20_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the plan: what, how much, and in which terms."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Some lines of the plan under a title."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a section may look at."""

    config: PlanConfig
    data_set: DataSet
    split: Split
    order: Order
    num_dropped: int

    @property
    def shard_counts(self) -> Int64Array:
        return np.array([shard.num_samples for shard in self.split.shards], dtype=np.int64)

    @property
    def shard_bytes(self) -> Int64Array:
        return np.array([shard.size_bytes for shard in self.split.shards], dtype=np.int64)


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("plan", PLAN_SCHEMAS, summary=SUMMARY))
        return 0
    config: PlanConfig = compose("plan", PLAN_SCHEMAS, argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.stdout.write(plan_text(make_plan(config)))
    return 0


def make_plan(config: PlanConfig) -> list[Section]:
    """Return the plan's sections.

    Raises:
        UserError: no such data, or a batch that ranks or lanes do not divide: what the run itself would say.
    """
    if config.data.stream is not None:
        raise UserError(
            "data.stream: nothing is known of a stream before it is read; python -m data_prep.index makes of its shards"
            " a data set that can be planned for"
        )
    data_set = _read_facts(config.data.path)
    split = data_set.split(config.data.train_split)
    training = TrainConfig(seed=config.seed, data=config.data, batch=config.batch, order=config.order)
    batch = plan_batch(training, num_samples=split.num_samples, world_size=config.world_size)
    order = build_order(
        config.order,
        shard_counts=[[shard.num_samples for shard in split.shards]],
        slots=batch.slots,
        seed=config.seed,
    )
    planned = Planned(config=config, data_set=data_set, split=split, order=order, num_dropped=order.num_dropped)
    return [section for make in SECTIONS if (section := make(planned)) is not None]


def plan_text(sections: list[Section]) -> str:
    """Return the plan as text, its columns aligned."""
    rows = [row for section in sections for row in section.rows]
    names, values = max(len(row.name) for row in rows), max(len(row.value) for row in rows)
    lines = []
    for section in sections:
        lines += ["", section.title]
        lines += [f"  {row.name:<{names}}  {row.value:>{values}}  {row.note}".rstrip() for row in section.rows]
    return "\n".join(lines[1:]) + "\n"


def steps_section(planned: Planned) -> Section:
    """Steps and slots."""
    split, order, config = planned.split, planned.order, planned.config
    slots = order.batch_size // config.world_size
    rows = [
        Row(name="steps per epoch", value=f"{order.steps_per_epoch:,}", note=f"of {order.batch_size:,} samples"),
        Row(name="slots per rank", value=f"{slots:,}", note=f"ranks={config.world_size} hosts={config.hosts}"),
        Row(name="dropped per epoch", value=f"{planned.num_dropped:,}", note="samples, others in each epoch"),
    ]
    title = f"{config.data.path}, {split.name}: {split.num_samples:,} samples in {len(split.shards):,} shards"
    return Section(title=f"{title}, {bytes_text(int(planned.shard_bytes.sum()))}", rows=tuple(rows))


def reading_section(planned: Planned) -> Section:
    """What the busiest host reads and holds."""
    order, hosts = planned.order, planned.config.hosts
    loads = [
        host_load(order, shard_bytes=planned.shard_bytes, shard_counts=planned.shard_counts, host=host, hosts=hosts)
        for host in range(hosts)
    ]
    most_read, most_held = max(loads, key=lambda load: load.read_bytes), max(loads, key=lambda load: load.cache_bytes)
    shards = f"{most_read.read_shards:,} of {len(planned.shard_counts):,} shards, each once"
    held = "the order goes through all shards at once"
    cache = "order=window needs less"
    if isinstance(order, WindowOrder):
        unit = "shards" if order.chunk_samples is None else "chunks"
        held = f"{most_held.open_chunks:,} {unit}: {most_held.lanes} lanes, windows of {order.window_chunks}"
        cache = "the working set and the next window of a lane"
        if order.chunk_samples is not None:
            shards = f"{most_read.read_shards:,} of {len(planned.shard_counts):,} shards, in chunks"
            cache += "; whole shards, from afar, want order.chunk_samples=null"
    if isinstance(order, MixtureOrder):
        shards = f"{most_read.read_shards:,} of {len(planned.shard_counts):,} shards, each set as often as it is used"
        held = cache = "the sum over the sets"
    rows = [
        Row(name="read per host and epoch", value=bytes_text(most_read.read_bytes), note=shards),
        Row(name="working set per host", value=bytes_text(most_held.open_bytes), note=held),
        Row(name="smallest sensible cache", value=bytes_text(most_held.cache_bytes), note=cache),
    ]
    if isinstance(order, WindowOrder | MixtureOrder) and most_held.lanes and order.lanes % hosts:
        rows.append(Row(name="lanes read by two hosts", value="yes", note=_lanes_advice(order.lanes, hosts)))
    return Section(title=f"reading, the busiest of {hosts} hosts" if hosts > 1 else "reading", rows=tuple(rows))


def shuffle_section(planned: Planned) -> Section | None:
    """How good the shuffle is."""
    if not planned.config.shuffle_samples:
        return None
    labels = _labels(planned)
    quality = shuffle_quality(
        planned.order,
        shard_counts=planned.shard_counts,
        labels_of=None if labels is None else labels.take,
        max_samples=planned.config.shuffle_samples,
    )
    rows = [
        _measure_row("stored neighbours' distance", quality.neighbour_distance_frac, "of an epoch; more is better"),
        _measure_row("pairs of one shard in a batch", quality.same_shard_pairs_frac, "of all pairs; less is better"),
    ]
    if quality.label_run is not None:
        rows.append(_measure_row("run of one label", quality.label_run, "samples; less is better"))
    return Section(title="shuffle, as a multiple of what an ideal full shuffle gives", rows=tuple(rows))


SECTIONS: tuple[Callable[[Planned], Section | None], ...] = (steps_section, reading_section, shuffle_section)


def bytes_text(size_bytes: int) -> str:
    """Return a size in its unit: 16_400_000_000 is "16.4 GB"."""
    size, units = float(size_bytes), ["bytes", "kB", "MB", "GB", "TB", "PB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"


def _measure_row(name: str, measure: Measure, unit: str) -> Row:
    note = f"{measure.found:.3g} against {measure.ideal:.3g} {unit}"
    return Row(name=name, value=f"{measure.of_ideal:.3g}", note=note)


def _lanes_advice(lanes: int, hosts: int) -> str:
    more = -(-lanes // hosts) * hosts
    return f"order.lanes={lanes} is no multiple of {hosts} hosts: with order.lanes={more} none is"


def _read_facts(path: str) -> DataSet:
    """Read what a folder or a URL says of its data; nothing goes into the cache for that."""
    with tempfile.TemporaryDirectory() as folder:
        return open_data_set(path, cache=CacheOptions(dir=folder)).data_set


def _labels(planned: Planned) -> Int64Array | None:
    """Return the labels of the split, None where they are remote, too many, or several a sample."""
    is_here = is_local(open_store(planned.config.data.path))
    is_small = planned.split.num_samples <= MAX_LABELS
    if not is_here or not is_small or planned.data_set.task is not Task.classification:
        return None
    return np.concatenate(list(_shard_labels(planned.split)))


def _shard_labels(split: Split) -> Iterator[Int64Array]:
    for shard in split.shards:
        yield read_index(shard.index_path, num_samples=shard.num_samples)["label"].astype(np.int64)


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
