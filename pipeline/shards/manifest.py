"""The manifest: what is true of a data set, read once and checked before anything is trusted.

    data_set = read_data_set(Path("data/cifar10"))
    train = data_set.split("train")
    train.num_samples, train.shards[0].path

`dataset.json` stands at the root and is written last, so a folder without one is not a data set. It seals each
split's `manifest.json` by SHA-256, which seals each shard and sidecar. Specification: docs/FORMAT.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.record import PackedLayout

FORMAT_VERSION = 1
DATA_SET_FILE = "dataset.json"
MANIFEST_FILE = "manifest.json"
MAX_JSON_BYTES = 512 << 20
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """One shard of a split, as the manifest has it; `path` and `index_path` are already joined and local."""

    path: Path
    num_samples: int
    size_bytes: int
    sha256: str
    index_path: Path
    index_bytes: int
    index_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One split: its shards in order. A sample's id is its row number counted over them."""

    name: str
    shards: tuple[ShardEntry, ...]
    num_samples: int
    manifest_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Channel mean and standard deviation of the training split's pixels, in 0..255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A data set's facts. `packed` is None for the encoded layout, `statistics` where nothing was decoded."""

    root: Path
    name: str
    task: str
    classes: tuple[str, ...]
    packed: PackedLayout | None
    splits: dict[str, Split]
    statistics: Statistics | None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def split(self, name: str) -> Split:
        """Return a split by name.

        Raises:
            UserError: there is none of that name.
        """
        if name not in self.splits:
            raise UserError(f"{self.root}: has no split {name!r}, only {', '.join(self.splits)}")
        return self.splits[name]


def seal(content: dict[str, Any]) -> str:
    """Return the SHA-256 of a JSON object's canonical spelling, leaving its own `checksum` out."""
    body = {key: value for key, value in content.items() if key != "checksum"}
    spelling = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(spelling.encode()).hexdigest()


def read_data_set(root: Path) -> DataSet:
    """Read and check `dataset.json` and the manifests it seals; no shard is opened.

    Raises:
        UserError: there is no data set at `root`, or it was made by a newer version.
        DamageError: a file is not what the checksums say.
    """
    if not root.is_dir():
        raise UserError(f'{root}: no such folder; make the data set with `make prepare-data ARGS="out={root}"`')
    path = root / DATA_SET_FILE
    if not path.is_file():
        raise UserError(
            f"{root}: no {DATA_SET_FILE}, so no finished data set; if its preparation was interrupted,"
            " type the same `make prepare-data` command again"
        )
    content = _read_object(path)
    if content.get("checksum") != seal(content):
        raise DamageError(f"{path}: its checksum does not fit its content: damaged, or edited by hand")
    try:
        layout = content["layout"]
        packed = None
        if layout["kind"] == "packed":
            packed = PackedLayout(height=layout["height"], width=layout["width"], channels=layout["channels"])
        statistics = content["statistics"]
        return DataSet(
            root=root,
            name=str(content["name"]),
            task=str(content["task"]),
            classes=tuple(map(str, content["classes"])),
            packed=packed,
            splits={name: _read_split(root, name, entry) for name, entry in content["splits"].items()},
            statistics=statistics and Statistics(mean=tuple(statistics["mean"]), std=tuple(statistics["std"])),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamageError(f"{path}: not of the form in docs/FORMAT.md ({error!r})") from None


def _read_split(root: Path, name: str, entry: dict[str, Any]) -> Split:
    folder = root / _plain_name(name)
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise DamageError(f"{path}: the manifest is missing")
    content = _read_object(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 != entry["manifest_sha256"]:
        raise DamageError(f"{path}: not the manifest that {DATA_SET_FILE} seals: damaged, or edited by hand")
    shards = tuple(_shard_entry(folder, row) for row in content["shardlist"])
    num_samples = sum(shard.num_samples for shard in shards)
    if num_samples != entry["samples"]:
        raise DamageError(f"{path}: lists {num_samples} samples, {DATA_SET_FILE} says {entry['samples']}")
    return Split(name=name, shards=shards, num_samples=num_samples, manifest_sha256=sha256)


def _shard_entry(folder: Path, row: dict[str, Any]) -> ShardEntry:
    index = row["index"]
    for count in (row["nsamples"], row["filesize"], index["filesize"]):
        if not isinstance(count, int) or count < 0:
            raise ValueError(f"count {count!r} in {row['url']}")
    return ShardEntry(
        path=folder / _plain_name(row["url"]),
        num_samples=row["nsamples"],
        size_bytes=row["filesize"],
        sha256=row["sha256"],
        index_path=folder / _plain_name(index["url"]),
        index_bytes=index["filesize"],
        index_sha256=index["sha256"],
    )


def _plain_name(name: str) -> str:
    """Refuse names that could leave the data set's folder."""
    if not isinstance(name, str) or not PLAIN_NAME.fullmatch(name):
        raise ValueError(f"name {name!r} is not a plain file name")
    return name


def _read_object(path: Path) -> dict[str, Any]:
    """Read a bounded JSON object and refuse a newer format version before anything else."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise DamageError(f"{path}: {path.stat().st_size} bytes is beyond any manifest")
    try:
        content = json.loads(path.read_bytes())
        version = content["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamageError(f"{path}: not a manifest ({error!r})") from None
    if not isinstance(version, int) or version < 1:
        raise DamageError(f"{path}: format_version {version!r}")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{path}: format version {version}, this Tarmac reads up to {FORMAT_VERSION};"
            " it was made by a newer one: upgrade, or prepare the data again"
        )
    return dict(content)
