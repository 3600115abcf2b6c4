"""Everything that a card shows, as plain values; data_prep/card/gather.py fills them.

facts.splits[0].class_counts[3], facts.duplicates.shared
"""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.card.samples import Thumbnail
from data_prep.card.sizes import SizeHistogram
from pipeline.shards.record import PackedLayout
from pipeline.shards.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFacts:
    """How a target's values lie in a split."""

    least: float
    mean: float
    std: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFacts:
    """Counts of one split.

    Attributes:
        class_counts: samples that carry each class.
        label_counts: samples with 0, 1, 2, ... labels.
        targets: of a regression, facts of each target; the counts are then empty.
    """

    name: str
    num_samples: int
    num_shards: int
    size_bytes: int
    class_counts: tuple[int, ...]
    label_counts: tuple[int, ...]
    targets: tuple[TargetFacts, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFacts:
    """One sample; `picture` is None where it was not wanted or cannot be decoded. It has labels or targets."""

    split: str
    id: int
    labels: tuple[int, ...]
    source_key: str
    width: int
    height: int
    picture: Thumbnail | None
    targets: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateGroup:
    """Samples whose images are equal: how many, and the first of them, with a picture of the first."""

    num_members: int
    members: tuple[SampleFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateFacts:
    """Counts of exact duplicates and some examples, those across splits first.

    Attributes:
        num_groups: groups of two or more equal images.
        num_conflicting: groups whose members do not all carry the same labels.
        copies: (split, samples that repeat another of the split).
        shared: (split, other, samples of `split` whose image is in `other`), `other` being the earlier split.
    """

    num_groups: int
    num_conflicting: int
    copies: tuple[tuple[str, int], ...]
    shared: tuple[tuple[str, str, int], ...]
    examples: tuple[DuplicateGroup, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedItem:
    split: str
    source_key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedFacts:
    """Items left out: how many, the most frequent reasons with numbers in them made equal, and the first items."""

    num_items: int
    reasons: tuple[tuple[str, int], ...]
    examples: tuple[RejectedItem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """All that a card shows.

    Attributes:
        class_ids: the source's own ids, equal to `classes` where it has none.
        channels: names of the channels of `mean` and `std`, which are in 0..255; empty where nothing was decoded.
        sizes_before: of the source's images; None where they are not known.
        duplicates: None where they were not sought.
        provenance: (dotted name, value) of what the data set was prepared with.
        command: what to type to make the data set again; None where that is not known.
    """

    name: str
    task: Task
    classes: tuple[str, ...]
    class_ids: tuple[str, ...]
    packed: PackedLayout | None
    splits: tuple[SplitFacts, ...]
    channels: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sizes_before: SizeHistogram | None
    sizes_after: SizeHistogram
    samples: tuple[SampleFacts, ...]
    duplicates: DuplicateFacts | None
    rejected: RejectedFacts
    provenance: tuple[tuple[str, str], ...]
    command: str | None

    @property
    def num_samples(self) -> int:
        return sum(split.num_samples for split in self.splits)

    @property
    def size_bytes(self) -> int:
        return sum(split.size_bytes for split in self.splits)
