"""A batch that is looked at: its samples, and how they are told, as captions of pictures and as a table.

tiles = [tile_of(sample, batch, is_untouched=batch.is_untouched) for sample in batch.samples]
sys.stdout.write(title_of(config, batch) + table_of(config, batch))
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.inspect_config import InspectConfig
from pipeline.shards.manifest import DataSet
from pipeline.track.contact_sheet import Pixels, Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One slot of a global batch, and where its image comes from.

    Attributes:
        slot, rank, micro: its place in the global batch, and who trains on it in which micro-batch.
        labels: class numbers; one, or for several labels any number; none where there are targets.
        targets: of a regression.
        shard, record: file name, and number of the record in it.
        is_padding: of weight 0, so it has no part in the update.
        before_HWC: the image as it is stored, None where it cannot be had.
        read_HWC: what the reader gives: the same where it does not crop.
        after_HWC: what the model is trained on, before it is blended with its neighbour's and normalised.
        own_frac: its share in that blend (mixup), the rest is slot ^ 1's; None where nothing is blended.
    """

    slot: int
    rank: int
    micro: int
    sample_id: int
    labels: tuple[int, ...]
    shard: str
    record: int
    source_key: str
    is_padding: bool
    before_HWC: Pixels | None
    read_HWC: Pixels
    after_HWC: Pixels
    own_frac: float | None = None
    targets: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalBatch:
    """What was found: `samples` are those slots of the batch that were asked for."""

    data_set: DataSet
    epoch: int
    step: int
    steps_per_epoch: int
    num_slots: int
    micro_batches: int
    samples: tuple[Sample, ...]

    @property
    def is_untouched(self) -> bool:
        """Whether these images are trained on as they are stored."""
        whole = all(sample.before_HWC is None for sample in self.samples)
        return whole and all(np.array_equal(sample.read_HWC, sample.after_HWC) for sample in self.samples)


def tile_of(sample: Sample, batch: GlobalBatch, *, is_untouched: bool) -> Tile:
    """Return a sample's pictures, before and after, or one where nothing is done to any, and its caption."""
    before_HWC = sample.read_HWC if sample.before_HWC is None else sample.before_HWC
    return Tile(
        pictures=(sample.after_HWC,) if is_untouched else (before_HWC, sample.after_HWC),
        lines=(
            _names(sample, batch),
            f"slot {sample.slot}, id {sample.sample_id}{_blend(sample)}",
            sample.source_key,
            f"{sample.shard}, record {sample.record}",
        ),
    )


def _names(sample: Sample, batch: GlobalBatch) -> str:
    classes = batch.data_set.classes
    names = "; ".join(f"{label} {classes[label]}" for label in sample.labels) or "no label"
    if sample.targets:
        names = "; ".join(f"{name} {value:.4g}" for name, value in zip(classes, sample.targets, strict=True))
    return f"{names} (padding, weight 0)" if sample.is_padding else names


def _blend(sample: Sample) -> str:
    return "" if sample.own_frac is None else f", {sample.own_frac:.0%} with slot {sample.slot ^ 1}"


def title_of(config: InspectConfig, batch: GlobalBatch) -> str:
    """Return the line above the pictures."""
    what = config.run or " + ".join(config.data.places)
    epoch_step = (batch.step - 1) % batch.steps_per_epoch + 1
    shown = f"{len(batch.samples):,} of {batch.num_slots:,} slots"
    sides = "" if batch.is_untouched else " Left: as stored. Right: as the model is trained on it."
    return (
        f"{what}, step {batch.step:,} (epoch {batch.epoch + 1}, step {epoch_step:,} of {batch.steps_per_epoch:,}),"
        f" {shown}.{sides}"
    )


def table_of(config: InspectConfig, batch: GlobalBatch) -> str:
    """Return a line for each sample; ranks and micro-batches only where there are several."""
    header = ["slot", "rank", "micro", "id", "label", "shard", "record", "source key"]
    rows = [
        [
            str(sample.slot),
            str(sample.rank),
            str(sample.micro),
            str(sample.sample_id),
            _names(sample, batch),
            sample.shard,
            str(sample.record),
            sample.source_key,
        ]
        for sample in batch.samples
    ]
    hidden = {"rank": config.ranks == 1, "micro": batch.micro_batches == 1}
    kept = [index for index, name in enumerate(header) if not hidden.get(name, False)]
    lines = [[row[index] for index in kept] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numeric = {"slot", "rank", "micro", "id", "record"}
    right = [header[index] in numeric for index in kept]
    return "".join(
        "  ".join(
            text.rjust(width) if is_right else text.ljust(width)
            for text, width, is_right in zip(line, widths, right, strict=True)
        ).rstrip()
        + "\n"
        for line in lines
    )
