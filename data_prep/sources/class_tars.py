"""Tars of one class each, lying in a folder or inside one large tar: ImageNet's form.

    tars = tars_inside(store, "ILSVRC2012_img_train.tar")       # by walking 1,000 headers
    tars[0]                             # ClassTar(class_id="n01440764", path="ILSVRC...", start=512, end=152...)
    for tar, images in images_of(store, tars):                  # a class at a time, in the order of `tars`
        images[0]                       # Image(key="n01440764/n01440764_10026.JPEG", path=..., offset=..., ...)

Headers alone are read, from several class tars at once: a large tar on a disk or behind a network answers a lone
reader slowly. Classes come sorted by id and images by name, whatever their order in the tar.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from data_prep.archives.tar import walk_tar, walk_tars_concurrently
from data_prep.sources.folder import IMAGE_EXTENSIONS
from data_prep.sources.wordnet import MAX_SYNSETS, is_wordnet_id
from pipeline.shards.errors import DamageError, UserError
from pipeline.storage import Store

logger = logging.getLogger(__name__)

LISTING_THREADS = 16
_TAR_SUFFIX = ".tar"


class ClassTar(NamedTuple):
    """A class's tar: the whole file `path`, or the bytes from `start` to `end` of it."""

    class_id: str
    path: str
    start: int = 0
    end: int | None = None


class Image(NamedTuple):
    """An image file: its key in the split, and where its bytes lie."""

    key: str
    path: str
    offset: int
    size_bytes: int


def tars_inside(store: Store, name: str) -> list[ClassTar]:
    """Return the class tars inside a tar, sorted by class.

    Raises:
        DamageError: the tar is damaged, or a class comes twice.
        UserError: a member is no class tar, there is none, or there are more than WordNet has nouns.
    """
    tars = []
    for member in walk_tar(store, name):
        if member.name.rpartition("/")[2].startswith("."):
            continue
        class_id = class_of_tar(member.name)
        if class_id is None:
            raise UserError(f"{store.location}/{name}: {member.name} is no class tar, as in n01440764.tar")
        tars.append(ClassTar(class_id, name, member.offset, member.offset + member.size_bytes))
        if len(tars) > MAX_SYNSETS:
            raise UserError(f"{store.location}/{name}: more than {MAX_SYNSETS:,} class tars; WordNet has fewer nouns")
    if not tars:
        raise UserError(f"{store.location}/{name}: holds no class tars, as in n01440764.tar")
    return sorted_tars(tars, where=f"{store.location}/{name}")


def class_of_tar(name: str) -> str | None:
    """Return the class of a class tar by its name, such as `winter21_whole/n00004475.tar`; None for other names."""
    class_id, dot, extension = name.rpartition("/")[2].partition(".")
    return class_id if is_wordnet_id(class_id) and dot + extension == _TAR_SUFFIX else None


def sorted_tars(tars: Iterable[ClassTar], *, where: str) -> list[ClassTar]:
    """Return class tars sorted by class. Raises DamageError where a class comes twice."""
    ordered = sorted(tars, key=lambda tar: tar.class_id)
    for first, second in pairwise(ordered):
        if first.class_id == second.class_id:
            raise DamageError(f"{where}: class {first.class_id} has two tars; take one away")
    return ordered


def images_of(store: Store, tars: Sequence[ClassTar]) -> Iterator[tuple[ClassTar, list[Image]]]:
    """Yield each class tar with its images, sorted by key; what is no image by its extension is left out and told.

    Raises:
        DamageError: a class tar is damaged, or no tar at all, or has an image twice.
    """
    others: Counter[str] = Counter()
    parts = [(tar.path, tar.start, tar.end) for tar in tars]
    for tar, members in zip(tars, walk_tars_concurrently(store, parts, threads=LISTING_THREADS), strict=True):
        folder = f"{tar.class_id}/"
        images = []
        for name, offset, size_bytes in members:
            if is_image(name, others=others):
                images.append(Image(folder + name.removeprefix(folder), tar.path, offset, size_bytes))
        yield tar, sorted_images(images, where=f"{store.location}/{tar.path}")
    tell_others(others, where=store.location)


def sorted_images(images: list[Image], *, where: str) -> list[Image]:
    """Return images sorted bytewise by key. Raises DamageError where one comes twice."""
    images.sort()  # by key: the order of code points is that of UTF-8's bytes
    if len({image.key for image in images}) != len(images):
        twice = next(first.key for first, second in pairwise(images) if first.key == second.key)
        raise DamageError(f"{where}: holds {twice} twice; get it again")
    return images


def is_image(name: str, *, others: Counter[str]) -> bool:
    """Tell whether a file is an image by its extension; others are counted, hidden files are nobody's."""
    if name.endswith(".JPEG") and "/" not in name and name[0] != ".":  # millions of them
        return True
    base = name.rpartition("/")[2]
    if base.startswith("."):
        return False
    extension = base.rpartition(".")[2].lower() if "." in base else ""
    if extension in IMAGE_EXTENSIONS:
        return True
    others[extension or "none"] += 1
    return False


def tell_others(others: Counter[str], *, where: str) -> None:
    """Say in one warning how many files were left out, if any were."""
    if others:
        most = ", ".join(f"{extension}: {count}" for extension, count in others.most_common(5))
        logger.warning("%s: left out: %d files that are no images by their extension (%s)", where, others.total(), most)
