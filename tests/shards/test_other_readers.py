"""Our shards in other people's readers, pixel by pixel. DALI's reader and image viewers are not tried here."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.shards.manifest import DataSet
from tiny_data import Pixels, prepare_pictures, rows_of, stored_image, write_pictures

Samples = dict[str, tuple[int, Pixels]]
# What these packages warn of is their own affair.
pytestmark = pytest.mark.filterwarnings("ignore")


KINDS = ["packed", "packed grey", "encoded jpg", "encoded png", "encoded webp"]


@pytest.fixture(scope="module", params=KINDS)
def expected(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[DataSet, Samples]:
    """A data set out of a folder of pictures in several shards, and its training samples by key."""
    layout, _, kind = request.param.partition(" ")
    extension = kind if layout == "encoded" else "png"
    folder = tmp_path_factory.mktemp("other")
    pictures = write_pictures(folder / "pets", num_each=5, size=8, extension=extension)
    options = [f"layout={layout}", "layout.shard_bytes=12000", "source.val_frac=0.2"]
    options += ["layout.resolution=8"] if layout == "packed" else []
    options += ["layout.channels=grey"] if kind == "grey" else []
    data_set = prepare_pictures(folder / "pets", folder / "set", *options)
    assert len(data_set.split("train").shards) >= 2
    samples: Samples = {}
    for number, (_, row) in enumerate(rows_of(data_set, "train")):
        source_key = bytes(row["source_key"]).decode()
        pixels = pictures[source_key]
        if kind == "grey":
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))
        assert data_set.classes[row["label"]] == source_key.split("/")[0]
        samples[f"{number:09d}"] = (int(row["label"]), pixels)
    return data_set, samples


def image_of(sample: dict[str, Any], *, prefix: str = "") -> Any:
    (found,) = [sample[prefix + name] for name in ("ppm", "pgm", "jpg", "png", "webp") if prefix + name in sample]
    return found


def test_our_own_rows_hold_the_pictures(expected: tuple[DataSet, Samples]) -> None:
    data_set, samples = expected
    for (shard, row), (label, pixels) in zip(rows_of(data_set, "train"), samples.values(), strict=True):
        assert int(row["label"]) == label
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(stored_image(shard, row)))), pixels)


def test_webdataset_reads_them(expected: tuple[DataSet, Samples]) -> None:
    import webdataset

    data_set, samples = expected
    urls = [str(shard.path) for shard in data_set.split("train").shards]
    for decoder in ("pil", "rgb"):
        stream = webdataset.WebDataset(urls, shardshuffle=False).decode(decoder)
        found = {sample["__key__"]: sample for sample in stream}
        assert found.keys() == samples.keys()
        for key, (label, pixels) in samples.items():
            assert found[key]["cls"] == label
            image = image_of(found[key])
            if decoder == "rgb":
                assert image.dtype == np.float32
                image = np.rint(image * 255).astype(np.uint8)
                pixels = pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=2)
            elif pixels.ndim == 2:
                image = image.convert("L")
            assert np.array_equal(np.asarray(image), pixels)


def test_wids_reads_them_by_the_manifest(expected: tuple[DataSet, Samples], tmp_path: Path) -> None:
    import wids

    data_set, samples = expected
    manifest = str(data_set.root / "train" / "manifest.json")
    found = wids.ShardListDataset(manifest, cache_dir=str(tmp_path), transformations=[])
    assert len(found) == data_set.split("train").num_samples
    for position, (key, (label, pixels)) in enumerate(samples.items()):
        sample = found[position]
        assert (sample["__key__"], int(sample[".cls"].read())) == (key, label)
        assert np.array_equal(np.asarray(Image.open(image_of(sample, prefix="."))), pixels)
    found.close()


LOAD_WITH_DATASETS = """
import json, sys
import numpy as np
from datasets import load_dataset

files, cache = json.loads(sys.argv[1]), sys.argv[2]
for streaming in (False, True):
    rows = load_dataset("webdataset", data_files=files, split="train", cache_dir=cache, streaming=streaming)
    for row in rows:
        (image,) = [row[name] for name in ("ppm", "pgm", "jpg", "png", "webp") if name in row]
        pixels = np.asarray(image)
        print(json.dumps([row["__key__"], row["cls"], list(pixels.shape), pixels.tobytes().hex()]))
"""


@pytest.mark.parametrize(
    "expected",
    [pytest.param(kind, marks=[] if kind in ("packed", "encoded jpg") else pytest.mark.slow) for kind in KINDS],
    indirect=True,
)
def test_hugging_face_datasets_reads_them(expected: tuple[DataSet, Samples], tmp_path: Path) -> None:
    """In a process of its own: it asks for its settings when it is imported."""
    data_set, samples = expected
    files = json.dumps({"train": [str(shard.path) for shard in data_set.split("train").shards]})
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    quiet = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", LOAD_WITH_DATASETS, files, str(tmp_path / "cache")],
        env={**os.environ, **offline, **quiet},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    wanted = [[key, label, list(pixels.shape), pixels.tobytes().hex()] for key, (label, pixels) in samples.items()]
    assert found == wanted + wanted
