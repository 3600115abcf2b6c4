"""Other libraries as readers of packed images, each as its users write it; benchmarks/loader.py runs them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.loader_setup import MEAN, PADDING, SHAPE, SIDE, STD, Setup, endless

# In the formats that read item by item; more would only take longer to write.
FEWER_SAMPLES = 20_000


def augmented(image: Any) -> Any:
    """What users of item readers write where torchvision would do it slower: mirror, shift, normalise."""
    padded = np.zeros((SIDE + 2 * PADDING, SIDE + 2 * PADDING, 3), dtype=np.uint8)
    padded[PADDING:-PADDING, PADDING:-PADDING] = image
    top, left = random.randint(0, 2 * PADDING), random.randint(0, 2 * PADDING)
    image = padded[top : top + SIDE, left : left + SIDE]
    if random.random() < 0.5:
        image = image[:, ::-1]
    return (image.astype(np.float32) - MEAN) / STD


def prepared(image: Any, *, floats: bool) -> Any:
    return augmented(image) if floats else np.array(image)


def stored(folder: Path) -> tuple[Any, Any]:
    return np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "labels.npy")


class Items:
    """A torch data set over a numpy memmap; FFCV's writer takes it too."""

    def __init__(self, folder: Path, *, floats: bool) -> None:
        self.images, self.labels = stored(folder)
        self.floats = floats

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return prepared(self.images[index], floats=self.floats), int(self.labels[index])


def torch_loader(setup: Setup) -> Iterator[Any]:
    data: Any = Items(setup.folder, floats=setup.floats)
    return endless(
        torch.utils.data.DataLoader(
            data,
            batch_size=setup.batch_size,
            shuffle=True,
            num_workers=setup.workers,
            drop_last=True,
            persistent_workers=setup.workers > 0,
        )
    )


def memmap_batches(setup: Setup) -> Iterator[Any]:
    """Fancy indexing of the memmap, batch by batch, in this thread."""
    images, labels = stored(setup.folder)
    while True:
        order = np.random.permutation(len(images))
        for start in range(0, len(order) - setup.batch_size + 1, setup.batch_size):
            ids = order[start : start + setup.batch_size]
            yield images[ids], labels[ids]


def web_loader(setup: Setup) -> Iterator[Any]:
    """Our shards, as webdataset's documentation has it."""
    wds = import_module("webdataset")
    urls = [str(path) for path in sorted((setup.folder / "thousand" / "train").glob("*.tar"))]
    data = wds.WebDataset(urls, shardshuffle=len(urls)).shuffle(1_000).decode("rgb8").to_tuple("ppm", "cls")
    data = data.map_tuple(partial(prepared, floats=setup.floats), int).batched(setup.batch_size, partial=False)
    return endless(wds.WebLoader(data, batch_size=None, num_workers=setup.workers))


class WidsItems:
    """Our shards by their manifest, at random places."""

    def __init__(self, setup: Setup) -> None:
        manifest = str(setup.folder / "one" / "train" / "manifest.json")
        cache = str(setup.folder / "wids")
        self.data = import_module("wids").ShardListDataset(manifest, cache_dir=cache, keep=True)
        self.floats = setup.floats

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        sample = self.data[index]
        return prepared(np.asarray(sample[".ppm"]), floats=self.floats), int(sample[".cls"])


def wids_loader(setup: Setup) -> Iterator[Any]:
    data: Any = WidsItems(setup)
    return endless(
        torch.utils.data.DataLoader(data, batch_size=setup.batch_size, shuffle=True, num_workers=setup.workers)
    )


def write_litdata(folder: Path, out: Path) -> None:
    count = min(FEWER_SAMPLES, len(stored(folder)[0]))
    import_module("litdata").optimize(
        fn=partial(_litdata_sample, folder), inputs=list(range(count)), output_dir=str(out), chunk_bytes="64MB"
    )


def _litdata_sample(folder: Path, index: int) -> dict[str, Any]:
    images, labels = stored(folder)
    return {"image": np.array(images[index]), "label": int(labels[index])}


def litdata_loader(setup: Setup) -> Iterable[Any]:
    litdata = import_module("litdata")

    class Ready(litdata.StreamingDataset):  # type: ignore[misc, name-defined]
        def __getitem__(self, index: Any) -> Any:
            sample = super().__getitem__(index)
            return prepared(sample["image"], floats=setup.floats), sample["label"]

    data = Ready(str(setup.folder / "litdata"), shuffle=True, drop_last=True)
    return litdata.StreamingDataLoader(  # type: ignore[no-any-return]
        data, batch_size=setup.batch_size, num_workers=setup.workers, drop_last=True
    )


def write_mosaicml(folder: Path, out: Path) -> None:
    images, labels = stored(folder)
    shape = ",".join(map(str, SHAPE))
    columns = {"image": f"ndarray:uint8:{shape}", "label": "int"}
    with import_module("streaming").MDSWriter(columns=columns, out=str(out)) as stream:
        for index in range(min(FEWER_SAMPLES, len(images))):
            stream.write({"image": np.array(images[index]), "label": int(labels[index])})


def mosaicml_loader(setup: Setup) -> Iterable[Any]:
    streaming = import_module("streaming")
    import_module("streaming.base.util").clean_stale_shared_memory()

    class Ready(streaming.StreamingDataset):  # type: ignore[misc, name-defined]
        def __getitem__(self, index: Any) -> Any:
            sample = super().__getitem__(index)
            return prepared(sample["image"], floats=setup.floats), sample["label"]

    data: Any = Ready(local=str(setup.folder / "mosaicml"), shuffle=True, batch_size=setup.batch_size)
    return torch.utils.data.DataLoader(data, batch_size=setup.batch_size, num_workers=setup.workers, drop_last=True)


def write_ffcv(folder: Path, out: Path) -> None:
    fields, writer = import_module("ffcv.fields"), import_module("ffcv.writer")
    out.mkdir()
    columns = {"image": fields.RGBImageField(write_mode="raw"), "label": fields.IntField()}
    writer.DatasetWriter(str(out / "train.beton"), columns, num_workers=2).from_indexed_dataset(
        Items(folder, floats=False)
    )


def ffcv_loader(setup: Setup) -> Iterator[Any]:
    loader, decoders = import_module("ffcv.loader"), import_module("ffcv.fields.decoders")
    transforms = import_module("ffcv.transforms")
    image = [decoders.SimpleRGBImageDecoder()]
    if setup.floats:
        image += [
            transforms.RandomHorizontalFlip(),
            transforms.RandomTranslate(padding=PADDING),
            transforms.NormalizeImage(MEAN, STD, np.float32),
        ]
    label = [decoders.IntDecoder(), transforms.ToTensor(), transforms.Squeeze()]
    return endless(
        loader.Loader(
            str(setup.folder / "ffcv" / "train.beton"),
            batch_size=setup.batch_size,
            num_workers=setup.workers,
            order=loader.OrderOption.RANDOM,
            os_cache=True,
            drop_last=True,
            pipelines={"image": [*image, transforms.ToTensor()], "label": label},
        )
    )
