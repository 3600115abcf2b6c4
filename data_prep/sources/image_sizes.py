"""The sizes of many files, looked up by name: listed images are not walked, they are asked for.

sizes_of = ImageSizes(open_store("photos"))
sizes_of(["cats/1.jpg", "cats/2.jpg"])      # [51_200, None]: the second is not there
"""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from pipeline.shards.errors import UserError
from pipeline.storage import Store

REMOTE_THREADS = 64


class ImageSizes:
    """Looks up the sizes of many files of a store: with stat where it is local, in many threads where it is not."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._root = store.location
        self._check_folder = lru_cache(maxsize=1 << 16)(self._refuse_link_out)

    def __call__(self, paths: list[str]) -> list[int | None]:
        """Return each file's size, None where it is missing or no file.

        Raises:
            UserError: a link that leads out of the store's folder.
        """
        if paths and self._store.local_path(paths[0]) is None:
            with ThreadPoolExecutor(REMOTE_THREADS) as pool:
                return list(pool.map(self._store.size_of, paths))
        return [self._local_size(f"{self._root}/{path}") for path in paths]

    def _local_size(self, file: str) -> int | None:
        try:
            facts = os.lstat(file)
            self._check_folder(os.path.dirname(file))  # noqa: PTH120  # a million times; pathlib is several times slower
            if stat.S_ISLNK(facts.st_mode):
                self._refuse_link_out(file)
                facts = os.stat(file)  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror})") from None
        return facts.st_size if stat.S_ISREG(facts.st_mode) else None

    def _refuse_link_out(self, path: str) -> None:
        real_root = os.path.realpath(self._root)
        if os.path.commonpath((os.path.realpath(path), real_root)) != real_root:
            raise UserError(f"{path}: a link that leads out of {self._root}; refused, put the file itself there")
