"""From checked configs to data: splits opened where they lie, orders, loaders.

    data_set, (train, val) = open_splits(config.data, config.cache, [Wanted(name="train"), Wanted(name="val")], world)
    order = build_order(config.order, shard_counts=shard_counts, slots=256, seed=7)

A split lies in memory, on a disk larger than memory, or at a URL; its images are packed or encoded: one reader each,
one feed each, and the same batches from all of them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.config import TrainConfig
from pipeline.data.concat import ConcatReader
from pipeline.data.crop import CentreCrop, Crop, RandomCrop
from pipeline.data.decode import num_processors
from pipeline.data.encoded import EncodedReader
from pipeline.data.loader import BatchLoader, worth_together
from pipeline.data.memory_room import available_bytes, paging_budget
from pipeline.data.order import Order, SequentialOrder
from pipeline.data.packed import PackedReader
from pipeline.data.paged_feed import paged
from pipeline.data.reader import MakeFeed, Reader
from pipeline.data.remote_set import OpenedSet, make_feeds, open_data_set
from pipeline.data.repeated import RepeatedOrder
from pipeline.data.shard_cache import CacheOptions
from pipeline.data.stream import StreamReader, stream_facts
from pipeline.data.stream_source import expand_shards
from pipeline.data.working_set import allot
from pipeline.data_config import (
    FULL_BATCH,
    AugmentConfig,
    CacheConfig,
    Check,
    DataConfig,
    ResizedCropConfig,
    WindowOrderConfig,
)
from pipeline.model_config import MlpConfig, ModelConfig, Norm
from pipeline.shards.check import find_damage
from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.manifest import DataSet, ShardEntry
from pipeline.world import World

log = logging.getLogger(__name__)

AUTO_CHECK_BYTES = 4 << 30
# The side that encoded images are brought to where none is asked for: that of the bottleneck MLP's presets.
ENCODED_RESOLUTION = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A split to open.

    Attributes:
        crop: what is seen of its images, where these are encoded.
        in_runs: whether its order reads shards in long runs, and not a sample here and there.
        seed: of a stream's shuffling.
    """

    name: str
    crop: Crop = field(default_factory=lambda: CentreCrop(frac=1.0))
    in_runs: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """Slots of a global batch and of a micro-batch on one rank."""

    slots: int
    micro_slots_per_rank: int
    micro_batches: int


def open_splits(
    config: DataConfig, cache: CacheConfig, wanted: Sequence[Wanted], world: World
) -> tuple[DataSet, list[Reader]]:
    """Open splits of the data set, after checking as much of them as `data.check` asks; ranks share the work.

    Of remote shards each is checked when it is fetched, and with data.check=full those in the cache again. Where
    several data sets are mixed, a reader goes over all of them, and the first one is returned.

    Raises:
        UserError: there is no such data set or split, or training cannot take it.
        DamageError: a file is not what the manifest says.
    """
    if config.stream is not None:
        streams: list[Reader] = [_open_stream(config, split, world) for split in wanted]
        return streams[0].data_set, streams
    options = CacheOptions(
        dir=cache.dir, max_bytes=cache.max_bytes, patience_s=cache.patience_s, recheck=config.check is Check.full
    )
    sets = world.agree(lambda: [open_data_set(path, cache=options) for path in config.places])
    _check_alike_cropped(sets, wanted)
    readers: list[Reader] = []
    world.agree_all(lambda: readers.extend(_open_readers(sets, config, wanted, world)))
    local = [(opened, split.name) for opened in sets for split in wanted if split.name not in opened.entries]
    shards = [(opened.data_set, shard) for opened, name in local for shard in opened.data_set.split(name).shards]
    size_bytes = sum(shard.size_bytes for _, shard in shards)
    if config.check is Check.full or (config.check is Check.auto and size_bytes <= AUTO_CHECK_BYTES):
        world.agree_all(lambda: _check_checksums(shards[world.rank :: world.size]))
    elif world.rank == 0:
        log.info(
            "data: %.1f GB, lengths checked, checksums not (data.check=full, or python -m data_prep.verify path=%s)",
            size_bytes / 1e9,
            config.places[0],
        )
    return sets[0].data_set, readers


def _check_alike_cropped(sets: Sequence[OpenedSet], wanted: Sequence[Wanted]) -> None:
    """Refuse to crop at random where some sets are cropped by a decoder and others, packed, on the device."""
    packed = {opened.data_set.packed is not None: opened.location for opened in sets}
    if len(packed) > 1 and any(isinstance(split.crop, RandomCrop) for split in wanted):
        raise UserError(
            f"{packed[True]} holds packed images, {packed[False]} does not: augment=resized_crop wants all of"
            " data.paths packed, or none"
        )


def _open_readers(
    sets: Sequence[OpenedSet], config: DataConfig, wanted: Sequence[Wanted], world: World
) -> list[Reader]:
    """Return a reader of each wanted split, over all sets; those that were opened are closed where one cannot be."""
    parts = [(opened, split) for split in wanted for opened in sets]
    remote = make_feeds([(opened, split.name) for opened, split in parts], ranks=world.local_size)
    sizes = [
        sum(shard.size_bytes for shard in opened.data_set.split(split.name).shards) if make_feed is None else 0
        for (opened, split), make_feed in zip(parts, remote, strict=True)
    ]
    readers: list[Reader] = []
    try:
        for (opened, split), make_feed, budget_bytes in zip(parts, remote, _budgets(sizes, config, world), strict=True):
            if make_feed is None and budget_bytes is not None:
                make_feed = paged(opened.data_set, split.name, budget_bytes=budget_bytes, is_random=not split.in_runs)
            readers.append(open_reader(opened, split, config, make_feed=make_feed, world=world))
        if len(sets) == 1:
            return readers
        return [ConcatReader(readers[first : first + len(sets)]) for first in range(0, len(readers), len(sets))]
    except BaseException:
        for reader in readers:
            reader.close()
        raise


def _budgets(sizes_bytes: Sequence[int], config: DataConfig, world: World) -> Sequence[int | None]:
    """Return how many bytes of each local split a rank holds in memory; None: all of it."""
    budget_bytes = config.memory_bytes or paging_budget(
        data_bytes=sum(sizes_bytes), available_bytes=available_bytes(), num_ranks=world.local_size
    )
    return [None] * len(sizes_bytes) if budget_bytes is None else allot(sizes_bytes, room_bytes=budget_bytes, ranks=1)


def open_reader(
    opened: OpenedSet, wanted: Wanted, config: DataConfig, *, make_feed: MakeFeed | None, world: World
) -> Reader:
    """Return the reader of a split's layout."""
    data_set, place = opened.data_set, opened.location
    if data_set.packed is not None:
        if config.resolution is not None:
            raise UserError(
                f"data.resolution={config.resolution}: {place} holds packed images of"
                f" {data_set.packed.height}x{data_set.packed.width}; leave the option out, or prepare the data anew"
                f" with layout.resolution={config.resolution}"
            )
        return PackedReader(data_set, wanted.name, make_feed=make_feed)
    side = config.resolution or ENCODED_RESOLUTION
    return EncodedReader(
        data_set,
        wanted.name,
        size=(side, side),
        crop=wanted.crop,
        threads=_decode_threads(config, world),
        verify=config.verify_records,
        make_feed=make_feed,
    )


def _open_stream(config: DataConfig, wanted: Wanted, world: World) -> StreamReader:
    """Return the reader of the stream to train on, or, for the split of that name, to evaluate on."""
    is_val = wanted.name == config.val_split
    shards = expand_shards(config.val_stream if is_val else config.stream)
    side = config.resolution or ENCODED_RESOLUTION
    facts = stream_facts(
        shards,
        split=wanted.name,
        num_samples=(config.val_stream_samples if is_val else config.stream_samples_per_epoch) or 0,
        num_classes=config.stream_classes or 0,
        size=(side, side),
    )
    return StreamReader(
        shards,
        facts=facts,
        crop=wanted.crop,
        seed=wanted.seed,
        rank=world.rank,
        world_size=world.size,
        shuffle_samples=config.stream_shuffle,
        in_order=is_val,
        resampled=config.stream_resampled,
        max_rejected=config.stream_max_rejected,
        label_field=config.stream_label_field,
        threads=_decode_threads(config, world),
    )


def _decode_threads(config: DataConfig, world: World) -> int:
    return config.decode_threads or max(1, num_processors() // world.local_size)


def build_crop(config: AugmentConfig, *, seed: int) -> Crop:
    """Return what training sees of encoded images."""
    if isinstance(config, ResizedCropConfig):
        return RandomCrop(
            seed=seed,
            scale=(config.least_area_frac, config.most_area_frac),
            ratio=(config.least_aspect, config.most_aspect),
            flip=config.flip,
        )
    return CentreCrop(frac=1.0)


def _check_checksums(shards: Sequence[tuple[DataSet, ShardEntry]]) -> None:
    for data_set, shard in shards:
        for fault in find_damage(data_set, shard):
            raise DamageError(f"{fault}; see all of it with python -m data_prep.verify path={data_set.root}")


def plan_batch(config: TrainConfig, *, num_samples: int, world_size: int) -> BatchPlan:
    """Return how a global batch is cut.

    Raises:
        UserError: a batch that ranks do not divide, larger than the split, or of single samples for batch norm.
    """
    # Mixup blends neighbours, who must be in one micro-batch.
    is_paired = isinstance(config.augment, AugmentConfig) and config.augment.mixup_alpha is not None
    if config.batch.size == FULL_BATCH:
        # Padded by weight-0 slots to a multiple of ranks and lanes: the update is the whole set's gradient.
        lanes = config.order.lanes if isinstance(config.order, WindowOrderConfig) else 1
        multiple = math.lcm(2 * world_size if is_paired else world_size, lanes)
        size = -(-num_samples // multiple) * multiple
    else:
        size = int(config.batch.size)
        if size > num_samples:
            raise UserError(f"batch.size={size} is over the {num_samples:,} samples of the split; try batch.size=full")
        if size % world_size:
            nearest = max(1, round(size / world_size)) * world_size
            raise UserError(
                f"batch.size={size} does not divide by {world_size} ranks: try batch.size={nearest},"
                " or another number of ranks (NPROC=...)"
            )
    micro_size = min(config.batch.micro_size or size, size)
    if micro_size % world_size:
        raise UserError(f"batch.micro_size={micro_size} does not divide by {world_size} ranks")
    micro_slots = micro_size // world_size
    if is_paired and (size // world_size % 2 or micro_slots % 2):
        raise UserError(
            f"augment.mixup_alpha={config.augment.mixup_alpha} blends pairs, and batch.size={size} in micro-batches of"
            f" {micro_size} over {world_size} ranks gives a rank an odd number: multiples of {2 * world_size} wanted"
        )
    last_slots = size // world_size % micro_slots or micro_slots
    if _has_batch_norm(config.model) and min(micro_slots, last_slots) == 1:
        raise UserError(
            f"model.norm=batch normalises over the samples of a rank's micro-batch, and batch.size={size} in"
            f" micro-batches of {micro_size} over {world_size} ranks leaves one of a single sample: larger batches,"
            " fewer ranks, or model.norm=layer"
        )
    return BatchPlan(
        slots=size, micro_slots_per_rank=micro_slots, micro_batches=-(-(size // world_size) // micro_slots)
    )


def _has_batch_norm(config: ModelConfig) -> bool:
    return isinstance(config, MlpConfig) and config.norm is Norm.batch and bool(config.widths)


def batches_together(reader: Reader, *, slots: int) -> int:
    """Return how many batches of `slots` samples a thread of the loader should fill at a time."""
    if not (isinstance(reader, PackedReader) and reader.is_at_hand):
        return 1  # to decode or to wait for one batch is work enough for a thread
    return worth_together(slots * math.prod(reader.image_shape))


def build_eval_loader(
    reader: Reader, *, slots_per_rank: int, prefetch: int, world: World, times: int = 1
) -> BatchLoader:
    """Return a loader of every sample once; the shape of a forward pass does not depend on the number of ranks.

    Args:
        times: how often each batch comes, in a row, at positions of its own.
    """
    order: Order = SequentialOrder(num_samples=reader.num_samples, batch_size=slots_per_rank * world.size)
    if times > 1:
        order = RepeatedOrder(order=order, times=times)
    return BatchLoader(reader, order, rank=world.rank, world_size=world.size, prefetch=prefetch, pin=world.cuda)
