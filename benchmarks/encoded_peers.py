"""One reader of JPEGs, run in a process of its own: its speed from the third batch on, as one JSON object.

    python -m benchmarks.encoded_peers prepare FFCV folder      # makes of folder/files/*/*.jpg what it reads; tries it
    python -m benchmarks.encoded_peers run FFCV folder 256 2    # {"images_per_s": 1364.2, "cpu_ms_per_image": 1.41}

Each is written as its users write it: uint8 batches of random resized crops of 224x224, half of them mirrored, two
workers or threads. benchmarks/encoded.py says what stands behind the names.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 224
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
SHARD_BYTES = 64 << 20
# Of a run, before the clock starts: workers have started, code is compiled, queues are full.
BATCHES_BEFORE = 2

Decode = Callable[[bytes], Any]
Labelled = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A way of reading.

    Attributes:
        package: whose version the table names.
        prepare: makes folder/<store> of (path, class number)s; None: it reads `folder/files`, or our own shards.
        batches: of a folder, the batch size and the number of workers or threads.
    """

    package: str
    batches: Callable[[Path, int, int], Iterable[Any]]
    store: str = ""
    prepare: Callable[[list[Labelled], Path], None] | None = None


def main(argv: list[str]) -> None:
    action, name, folder = argv[0], argv[1], Path(argv[2])
    peer = PEERS[name]
    if action == "prepare":
        if peer.prepare is not None and not (folder / peer.store).exists():
            part = folder / f"{peer.store}.part"
            shutil.rmtree(part, ignore_errors=True)
            peer.prepare(files(folder), part)
            part.rename(folder / peer.store)
        # One batch, so that a reader that does not run is found before the turns.
        for batch in peer.batches(folder, 8, 1):
            num_in(batch)
            return
        raise RuntimeError("it gives no batch")
    started_s, started_cpu_s, ended_cpu_s, num_images = 0.0, 0.0, 0.0, 0
    for number, batch in enumerate(peer.batches(folder, int(argv[3]), int(argv[4]))):
        num_images += num_in(batch)
        ended_cpu_s = cpu_s(os.getpid())
        if number < BATCHES_BEFORE:
            started_s, started_cpu_s, num_images = time.perf_counter(), ended_cpu_s, 0
    passed_s, passed_cpu_s = time.perf_counter() - started_s, ended_cpu_s - started_cpu_s
    rates = {"images_per_s": num_images / passed_s, "cpu_ms_per_image": 1e3 * passed_cpu_s / num_images}
    sys.stdout.write(json.dumps(rates) + "\n")


def descendants(root: int) -> Iterator[int]:
    """Yield a process's number and those of all that it started, and they."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has just ended
        parents.setdefault(parent, []).append(int(path.parent.name))
    waiting = [root]
    while waiting:
        process = waiting.pop()
        yield process
        waiting += parents.get(process, [])


def cpu_s(root: int) -> float:
    """Return the processor time of a process and its descendants, in seconds."""
    ticks = 0
    for process in descendants(root):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def num_in(batch: Any) -> int:
    """Return the number of images in a batch, and see that it is what was asked for."""
    images = batch["image"] if isinstance(batch, dict) else batch[0] if isinstance(batch, (list, tuple)) else batch
    assert tuple(images.shape[1:]) == (SIDE, SIDE, 3), images.shape
    assert str(images.dtype).endswith("uint8"), images.dtype
    return int(images.shape[0])


def files(folder: Path) -> list[Labelled]:
    """Return the JPEG files with the number of their class folder."""
    classes = {path.name: number for number, path in enumerate(sorted((folder / "files").iterdir()))}
    return [(str(path), classes[path.parent.name]) for path in sorted((folder / "files").glob("*/*"))]


def read(path: str) -> bytes:
    return Path(path).read_bytes()


# What peers leave to their users: decoding, cropping, resizing.


def random_box(height: int, width: int) -> tuple[int, int, int, int]:
    """As torchvision's RandomResizedCrop.get_params: top, left, height, width."""
    for _ in range(10):
        area = height * width * random.uniform(*SCALE)
        aspect = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    return 0, 0, height, width


def by_simplejpeg(content: bytes) -> Any:
    """libjpeg-turbo 3, the whole image, then OpenCV's linear resize: the fastest that the usual wheels give."""
    import simplejpeg

    cv2 = import_module("cv2")
    cv2.setNumThreads(0)
    pixels = simplejpeg.decode_jpeg(content, "RGB")
    top, left, height, width = random_box(*pixels.shape[:2])
    part = pixels[top : top + height, left : left + width]
    image = cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return cv2.flip(image, 1) if random.random() < 0.5 else image


def by_pillow(content: bytes) -> Any:
    """What torchvision's transforms do with a Pillow image."""
    import io

    from PIL import Image, ImageOps

    picture = Image.open(io.BytesIO(content)).convert("RGB")
    top, left, height, width = random_box(picture.height, picture.width)
    picture = picture.crop((left, top, left + width, top + height)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.array(ImageOps.mirror(picture) if random.random() < 0.5 else picture)


# Ours.


def ours(folder: Path, batch_size: int, workers: int) -> Iterator[Any]:
    from pipeline.data.crop import RandomCrop
    from pipeline.data.encoded import EncodedReader
    from pipeline.data.loader import BatchLoader
    from pipeline.data.order import FullOrder
    from pipeline.shards.manifest import read_data_set

    data_set = read_data_set(folder / "tarmac")
    reader = EncodedReader(data_set, "train", size=(SIDE, SIDE), crop=RandomCrop(seed=1), threads=workers)
    order = FullOrder(num_samples=reader.num_samples, batch_size=batch_size, seed=1)
    for batch in BatchLoader(reader, order, rank=0, world_size=1):
        yield batch.images_BHWC
    reader.close()


def write_ours(images: list[Labelled], out: Path) -> None:
    from data_prep.config import PREPARE_SCHEMAS, PrepareConfig
    from data_prep.prepare import prepare
    from pipeline.compose import compose

    root = Path(images[0][0]).parents[1]
    options = ["source=folder", f"source.root={root}", "source.val_frac=0", "layout=encoded"]
    checks = ["layout.decode_check=false", f"layout.shard_bytes={SHARD_BYTES}", f"out={out}"]
    config: PrepareConfig = compose("prepare", PREPARE_SCHEMAS, [*options, *checks])
    prepare(config)


# Peers.


class Files:
    """A torch data set of JPEG files, as torchvision's ImageFolder is one."""

    def __init__(self, images: list[Labelled], decode: Decode) -> None:
        self.images, self.decode = images, decode

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.images[index]
        return self.decode(read(path)), label


def torch_loader(folder: Path, batch_size: int, workers: int, *, decode: Decode) -> Iterable[Any]:
    from torch.utils.data import DataLoader

    data: Any = Files(files(folder), decode)
    return DataLoader(data, batch_size=batch_size, shuffle=True, num_workers=workers, drop_last=True)


def webdataset_loader(folder: Path, batch_size: int, workers: int) -> Iterable[Any]:
    """Over our shards, which are webdataset's too."""
    wds = import_module("webdataset")
    urls = [str(path) for path in sorted((folder / "tarmac" / "train").glob("*.tar"))]
    data = wds.WebDataset(urls, shardshuffle=100, nodesplitter=None).shuffle(1000).to_tuple("jpg", "cls")
    data = data.map_tuple(by_simplejpeg, int).batched(batch_size, partial=False)
    return wds.WebLoader(data, batch_size=None, num_workers=workers)  # type: ignore[no-any-return]


def write_litdata(images: list[Labelled], out: Path) -> None:
    optimize = import_module("litdata").optimize
    optimize(fn=_litdata_sample, inputs=images, output_dir=str(out), chunk_bytes=SHARD_BYTES, num_workers=2)


def _litdata_sample(labelled: Labelled) -> dict[str, Any]:
    return {"image": read(labelled[0]), "class": labelled[1]}


def litdata_loader(folder: Path, batch_size: int, workers: int) -> Iterable[Any]:
    litdata = import_module("litdata")
    data = litdata.StreamingDataset(str(folder / "litdata"), shuffle=True, drop_last=True, transform=_decode_sample)
    return litdata.StreamingDataLoader(  # type: ignore[no-any-return]
        data, batch_size=batch_size, num_workers=workers, drop_last=True
    )


def _decode_sample(sample: dict[str, Any]) -> tuple[Any, int]:
    return by_simplejpeg(sample["image"]), sample["class"]


def write_mosaicml(images: list[Labelled], out: Path) -> None:
    writer = import_module("streaming").MDSWriter
    with writer(columns={"image": "bytes", "label": "int"}, out=str(out), size_limit=SHARD_BYTES) as stream:
        for path, label in images:
            stream.write({"image": read(path), "label": label})


def mosaicml_loader(folder: Path, batch_size: int, workers: int) -> Iterable[Any]:
    from torch.utils.data import DataLoader

    streaming = import_module("streaming")
    import_module("streaming.base.util").clean_stale_shared_memory()

    class Decoded(streaming.StreamingDataset):  # type: ignore[misc, name-defined]
        def __getitem__(self, index: Any) -> Any:
            sample = super().__getitem__(index)
            return by_simplejpeg(sample["image"]), sample["label"]

    data: Any = Decoded(local=str(folder / "mosaicml"), shuffle=True, batch_size=batch_size)
    return DataLoader(data, batch_size=batch_size, num_workers=workers, drop_last=True)


def write_ffcv(images: list[Labelled], out: Path) -> None:
    """JPEGs in FFCV's file, written anew by it at quality 90 as in its ImageNet recipe, at their own size."""
    fields, writer = import_module("ffcv.fields"), import_module("ffcv.writer")
    out.mkdir()
    columns = {"image": fields.RGBImageField(write_mode="jpg", jpeg_quality=90), "label": fields.IntField()}
    writer.DatasetWriter(str(out / "train.beton"), columns, num_workers=2).from_indexed_dataset(Opened(images))


class Opened:
    """What FFCV's writer takes: an indexed data set of Pillow images."""

    def __init__(self, images: list[Labelled]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        with Image.open(self.images[index][0]) as picture:
            return picture.convert("RGB"), self.images[index][1]


def ffcv_loader(folder: Path, batch_size: int, workers: int) -> Iterable[Any]:
    loader, decoders = import_module("ffcv.loader"), import_module("ffcv.fields.decoders")
    transforms = import_module("ffcv.transforms")
    image = [
        decoders.RandomResizedCropRGBImageDecoder((SIDE, SIDE), scale=SCALE, ratio=RATIO),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
    ]
    label = [decoders.IntDecoder(), transforms.ToTensor(), transforms.Squeeze()]
    return loader.Loader(  # type: ignore[no-any-return]
        str(folder / "ffcv" / "train.beton"),
        batch_size=batch_size,
        num_workers=workers,
        order=loader.OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={"image": image, "label": label},
    )


def dali_loader(folder: Path, batch_size: int, workers: int) -> Iterator[Any]:
    dali, fn = import_module("nvidia.dali"), import_module("nvidia.dali.fn")
    types = import_module("nvidia.dali.types")
    root = folder / "files"

    @dali.pipeline_def(batch_size=batch_size, num_threads=workers, device_id=None, seed=1)  # type: ignore[untyped-decorator]
    def pipeline() -> Any:
        jpegs, labels = fn.readers.file(file_root=str(root), random_shuffle=True, initial_fill=1000, name="files")
        images = fn.decoders.image_random_crop(
            jpegs, device="cpu", output_type=types.RGB, random_area=SCALE, random_aspect_ratio=RATIO, num_attempts=10
        )
        images = fn.resize(images, resize_x=SIDE, resize_y=SIDE, interp_type=types.INTERP_LINEAR)
        return fn.flip(images, horizontal=fn.random.coin_flip()), labels

    built = pipeline()
    built.build()
    for _ in range(built.epoch_size("files") // batch_size):
        images, _ = built.run()
        yield np.asarray(images.as_tensor())


def grain_loader(folder: Path, batch_size: int, workers: int) -> Iterator[Any]:
    grain = import_module("grain.python")
    data = grain.MapDataset.source([path for path, _ in files(folder)]).shuffle(seed=1).map(_read_and_decode)
    data = data.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=16))
    data = data.batch(batch_size, drop_remainder=True)
    yield from data.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))


def _read_and_decode(path: str) -> Any:
    return by_simplejpeg(read(path))


def spdl_loader(folder: Path, batch_size: int, workers: int, *, decode: Callable[[str], Any]) -> Iterator[Any]:
    pipelines = import_module("spdl.pipeline")
    paths = [path for path, _ in files(folder)]
    random.shuffle(paths)
    builder = pipelines.PipelineBuilder().add_source(paths).pipe(decode, concurrency=workers)
    builder = builder.aggregate(batch_size, drop_last=True).pipe(np.stack).add_sink(2)
    built = builder.build(num_threads=workers + 1)
    with built.auto_stop():
        yield from built


def _by_ffmpeg(path: str) -> Any:
    """By FFmpeg, whose filters crop, resize and mirror; the box is in shares of a size that is not known yet."""
    io = import_module("spdl.io")
    area, aspect = random.uniform(*SCALE), math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
    width, height = min(1.0, math.sqrt(area * aspect)), min(1.0, math.sqrt(area / aspect))
    left, top = random.uniform(0, 1 - width), random.uniform(0, 1 - height)
    steps = [
        f"crop=iw*{width:.4f}:ih*{height:.4f}:iw*{left:.4f}:ih*{top:.4f}",
        f"scale={SIDE}:{SIDE}:flags=bilinear",
        *(["hflip"] if random.random() < 0.5 else []),
        "format=pix_fmts=rgb24",
    ]
    return io.to_numpy(io.load_image(path, filter_desc=",".join(steps)))


OURS, FALLBACK = "tarmac", "tarmac, no native code"
PEERS = {
    OURS: Peer(package="tarmac", batches=ours, store="tarmac", prepare=write_ours),
    FALLBACK: Peer(package="tarmac", batches=ours, store="tarmac", prepare=write_ours),
    "torch DataLoader, simplejpeg": Peer(package="torch", batches=partial(torch_loader, decode=by_simplejpeg)),
    "torch DataLoader, Pillow": Peer(package="torch", batches=partial(torch_loader, decode=by_pillow)),
    "webdataset, simplejpeg": Peer(package="webdataset", batches=webdataset_loader, store="tarmac", prepare=write_ours),
    "litdata, simplejpeg": Peer(package="litdata", batches=litdata_loader, store="litdata", prepare=write_litdata),
    "MosaicML streaming, simplejpeg": Peer(
        package="mosaicml-streaming", batches=mosaicml_loader, store="mosaicml", prepare=write_mosaicml
    ),
    "FFCV": Peer(package="ffcv", batches=ffcv_loader, store="ffcv", prepare=write_ffcv),
    "DALI on the CPU": Peer(package="nvidia-dali-cuda120", batches=dali_loader),
    "grain, simplejpeg": Peer(package="grain", batches=grain_loader),
    "spdl, FFmpeg": Peer(package="spdl-io", batches=partial(spdl_loader, decode=_by_ffmpeg)),
    "spdl, simplejpeg": Peer(package="spdl-io", batches=partial(spdl_loader, decode=_read_and_decode)),
}

if __name__ == "__main__":
    main(sys.argv[1:])
