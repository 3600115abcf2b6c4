"""Sections on data: steps and slots, what a host reads and holds, how good the shuffle is."""

from __future__ import annotations

from pipeline.data.mixture import MixtureOrder
from pipeline.data.shuffle_quality import Measure, shuffle_quality
from pipeline.data.subset import SubsetOrder
from pipeline.data.window import WindowOrder
from pipeline.planning.planned import Planned
from pipeline.planning.rows import Row, Section, bytes_text


def steps_section(planned: Planned) -> Section:
    """Steps and slots."""
    data, order, config = planned.data, planned.order, planned.config
    rows = [
        Row(name="steps per epoch", value=f"{order.steps_per_epoch:,}", note=f"of {order.batch_size:,} samples"),
        Row(
            name="slots per rank",
            value=f"{planned.slots_per_rank:,}",
            note=f"ranks={config.world_size} hosts={config.hosts}",
        ),
        Row(name="dropped per epoch", value=f"{order.num_dropped:,}", note="samples, others in each epoch"),
    ]
    if planned.batch.micro_batches > 1:
        note = f"slots of a rank, {planned.batch.micro_batches} forward passes an update"
        rows.insert(2, Row(name="micro-batch", value=f"{planned.batch.micro_slots_per_rank:,}", note=note))
    title = f"{data.title}: {data.num_samples:,} samples in {len(data.shard_bytes):,} shards"
    return Section(title=f"{title}, {bytes_text(int(data.shard_bytes.sum()))}", rows=tuple(rows))


def reading_section(planned: Planned) -> Section:
    """What the busiest host reads and holds."""
    order, hosts, num_shards = planned.order, planned.config.hosts, len(planned.data.shard_bytes)
    order = order.order if isinstance(order, SubsetOrder) else order
    most_read, most_held = planned.busiest, max(planned.loads, key=lambda load: load.cache_bytes)
    shards = f"{most_read.read_shards:,} of {num_shards:,} shards, each once"
    held = "the order goes through all shards at once"
    cache = "order=window needs less"
    if isinstance(order, WindowOrder):
        unit = "shards" if order.chunk_samples is None else "chunks"
        held = f"{most_held.open_chunks:,} {unit}: {most_held.lanes} lanes, windows of {order.window_chunks}"
        cache = "the working set and the next window of a lane"
        if order.chunk_samples is not None:
            shards = f"{most_read.read_shards:,} of {num_shards:,} shards, in chunks"
            cache += "; whole shards, from afar, want order.chunk_samples=null"
    if isinstance(order, MixtureOrder):
        shards = f"{most_read.read_shards:,} of {num_shards:,} shards, each set as often as it is used"
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
    labels = planned.data.read_labels()
    quality = shuffle_quality(
        planned.order,
        shard_counts=planned.data.all_shard_counts,
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


def _measure_row(name: str, measure: Measure, unit: str) -> Row:
    note = f"{measure.found:.3g} against {measure.ideal:.3g} {unit}"
    return Row(name=name, value=f"{measure.of_ideal:.3g}", note=note)


def _lanes_advice(lanes: int, hosts: int) -> str:
    more = -(-lanes // hosts) * hosts
    return f"order.lanes={lanes} is no multiple of {hosts} hosts: with order.lanes={more} none is"
