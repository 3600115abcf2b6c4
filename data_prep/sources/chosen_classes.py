"""A part of a collection's classes as a collection of its own: two classes of ten, ImageNet's hundred of a thousand.

    pair = ChosenClasses(open_cifar(...), names=["ship", "airplane"])
    pair.classes                            # ("ship", "airplane"): numbered in the order in which they were asked for

Items of other classes are left out while listing, so nothing of them is read or decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress

import numpy as np

from data_prep.sources.base import ImageArray, Items, Source
from data_prep.sources.spelling import shown
from pipeline.shards.errors import UserError
from pipeline.shards.task import Task

# So many of a collection's names are told to somebody who asks for one that is not there.
_TOLD = 10


class ChosenClasses:
    """A source that lists the items of some classes of another one."""

    def __init__(self, source: Source, *, names: Sequence[str]) -> None:
        """Choose classes.

        Args:
            names: as people call them or, where the source has such, its own ids (n01440764).

        Raises:
            UserError: no such class, one that is named twice, or a source that gives items several labels or none.
        """
        if source.task is not Task.classification:
            raise UserError(
                f"classes: wants a source with one label an item, {source.name} has others; drop the option"
            )
        ids = source.class_ids or ()
        numbers = {name: number for known in (ids, source.classes) for number, name in enumerate(known)}
        for name in names:
            if name not in numbers:
                there = ", ".join(source.classes[:_TOLD]) + (", ..." if len(source.classes) > _TOLD else "")
                raise UserError(f"classes: {shown(name)} is no class of {source.name}; there are {there}")
        chosen = [numbers[name] for name in names]
        if len(set(chosen)) < len(chosen):
            raise UserError(f"classes={','.join(names)}: one of them is named twice; name each once")
        self._source, self._chosen = source, chosen
        self._number_of = np.full(len(source.classes), -1, dtype=np.int64)
        self._number_of[chosen] = np.arange(len(chosen))
        self.task = source.task
        self.name = source.name

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self._source.classes[number] for number in self._chosen)

    @property
    def class_ids(self) -> tuple[str, ...] | None:
        ids = self._source.class_ids
        return None if ids is None else tuple(ids[number] for number in self._chosen)

    @property
    def splits(self) -> tuple[str, ...]:
        return self._source.splits

    @property
    def native_shape(self) -> tuple[int, int, int] | None:
        return self._source.native_shape

    def list_items(self, split: str) -> Iterator[Items]:
        """List the chosen classes' items, in the collection's order."""
        for items in self._source.list_items(split):
            labels = self._number_of[np.asarray(items.labels, dtype=np.int64)]
            if (keep := labels >= 0).any():
                yield Items(
                    labels=labels[keep],
                    source_keys=[*compress(items.source_keys, keep)],
                    paths=[*compress(items.paths, keep)],
                    offsets=items.offsets[keep],
                    sizes_bytes=items.sizes_bytes[keep],
                    boxes=None if items.boxes is None else items.boxes[keep],
                    details=None if items.details is None else [*compress(items.details, keep)],
                )

    def read(self, *, path: str, offset: int, size_bytes: int) -> bytes | ImageArray:
        return self._source.read(path=path, offset=offset, size_bytes=size_bytes)
