"""The inside of a zip as a place of files: text files to read whole, images to be read later by offset.

    files = ZipFiles(open_store("downloads"), "tiny-imagenet-200.zip")
    files.read_bytes("tiny-imagenet-200/wnids.txt", max_bytes=1 << 20)
    next(files.below("tiny-imagenet-200/val"))          # Image("images/val_0.JPEG", "tiny-imagenet-200.zip", ...)

The directory is listed once, when it is first needed, and held: about 300 bytes a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property

from data_prep.archives.zip import ZipEntry, list_zip, read_zip_entry
from data_prep.sources.class_tars import Image
from data_prep.sources.rows import MAX_IMAGE_BYTES
from pipeline.shards.errors import DamageError, UserError
from pipeline.storage import Store


class ZipFiles:
    """The files of a zip."""

    def __init__(self, store: Store, name: str) -> None:
        self.location = f"{store.location}/{name}"
        self._store = store
        self._name = name

    def size_of(self, name: str) -> int | None:
        """Return the unpacked size of a file, None where there is no such file."""
        entry = self._entries.get(name)
        return None if entry is None else entry.unpacked_bytes

    def read_bytes(self, name: str, *, max_bytes: int) -> bytes:
        """Return a whole file, unpacked.

        Raises:
            UserError: it is not there.
            DamageError: it is damaged, or longer than `max_bytes`.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise UserError(f"{self.location}: has no file {name}; get it again")
        return read_zip_entry(
            self._store, self._name, offset=entry.offset, size_bytes=entry.size_bytes, max_bytes=max_bytes
        )

    def below(self, folder: str) -> Iterator[Image]:
        """Yield all files below a folder, in the zip's order; their keys are the names without it."""
        prefix = f"{folder}/"
        for name, entry in self._entries.items():
            if name.startswith(prefix):
                yield Image(name.removeprefix(prefix), self._name, entry.offset, entry.size_bytes)

    @cached_property
    def _entries(self) -> dict[str, ZipEntry]:
        entries = list_zip(self._store, self._name)
        by_name = {entry.name: entry for entry in entries}
        if len(by_name) != len(entries):
            twice = next(name for name, count in Counter(entry.name for entry in entries).items() if count > 1)
            raise DamageError(f"{self.location}: holds {twice} twice; get it again")
        return by_name


def read_listed(store: Store, path: str, *, offset: int, size_bytes: int) -> bytes:
    """Return the bytes of an image as it was listed: in a zip, where `path` is one, else in a tar or a file of its own.

    Raises:
        UserError: the archive or file is gone, or not what it was when it was listed.
        DamageError: the zip is damaged there, or its entry too large for an image.
    """
    if path.endswith(".zip"):
        return read_zip_entry(store, path, offset=offset, size_bytes=size_bytes, max_bytes=MAX_IMAGE_BYTES)
    return store.read_at(path, offset=offset, size_bytes=size_bytes)
