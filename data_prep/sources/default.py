"""The default data set: CIFAR-10, or MNIST where CIFAR-10 is nowhere to be had.

    source = open_default("data/downloads")

What lies under the root decides first, so opening again after a download touches no network and gives the same set.
"""

from __future__ import annotations

import logging
from pathlib import Path

from data_prep.download.attempts import DownloadError
from data_prep.sources.base import Source
from data_prep.sources.cifar import CIFAR10, find_place, open_cifar
from data_prep.sources.idx import MNIST_CHECKSUMS, find_idx_files, open_idx

logger = logging.getLogger(__name__)


def open_default(root: str | Path) -> Source:
    """Open CIFAR-10 or else MNIST under `root`, downloading where neither is there.

    Raises:
        DownloadError: neither is there and neither can be had; both are named.
    """
    folder = Path(root).expanduser()
    if find_place(folder, collection=CIFAR10) is None and len(find_idx_files(folder)) == len(MNIST_CHECKSUMS):
        logger.info("%s holds MNIST and no CIFAR-10: MNIST it is", folder)
        return open_idx(root, download=False)
    try:
        return open_cifar(root, collection=CIFAR10, download=True)
    except DownloadError as error:
        logger.warning("%s; taking MNIST instead", error)
        try:
            return open_idx(root, download=True)
        except DownloadError as second_error:
            raise DownloadError(f"{error}; {second_error}") from None
