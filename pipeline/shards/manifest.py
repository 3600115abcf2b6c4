"""The manifest: what is true of a data set, read once and checked before anything is trusted.

    data_set = read_data_set(Path("data/cifar10"))
    train = data_set.split("train")
    train.num_samples, train.shards[0].path

`dataset.json` stands at the root and is written last, so a folder without one is not a data set. It ends with the
SHA-256 of its own bytes and seals each split's `manifest.json`, which seals each shard and sidecar: one changed byte
anywhere is found. Specification: docs/FORMAT.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pipeline.shards.errors import DamageError, UserError
from pipeline.shards.index import MAX_LABELS
from pipeline.shards.publish import Publish
from pipeline.shards.record import BLOCK_BYTES, END_OF_ARCHIVE, PackedLayout
from pipeline.shards.task import Task

FORMAT_VERSION = 1
DATA_SET_FILE = "dataset.json"
MANIFEST_FILE = "manifest.json"
REJECTED_FILE = "rejected.jsonl"
FOREIGN = "foreign"
# Of the URLs at which foreign shards may lie.
SHARD_SCHEMES = ("s3", "gs", "az", "http", "https")
MAX_JSON_BYTES = 512 << 20
MAX_COUNT = 1 << 53
MIN_RECORD_BYTES = 4 * BLOCK_BYTES
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
SHA256_HEX = re.compile(r"[0-9a-f]{64}")
_SHA256_DIGITS = 64
# What follows the checksum's digits, which are the last thing in dataset.json.
_SEAL_TAIL = b'"\n}\n'


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
    """One split: its shards in order. A sample's id is its row number counted over them.

    Attributes:
        shards_at: where foreign shards lie: a URL, or a folder, absolute or below the data set; None for the split's
            own. Of a URL the shards' paths are where they would be in the split's own folder, and no file is there.
    """

    name: str
    shards: tuple[ShardEntry, ...]
    num_samples: int
    manifest_sha256: str
    shards_at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Channel mean and standard deviation of the training split's pixels, in 0..255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A data set's facts.

    Attributes:
        classes: names for people; labels are indices into them; of a regression, names of the targets in their order.
        class_ids: the source's own ids of the classes, the names where it has none.
        packed: None for the encoded layout and for foreign shards.
        is_foreign: the shards were made by others and adopted where they lie.
        statistics: None where nothing was decoded.
    """

    root: Path
    name: str
    task: Task
    classes: tuple[str, ...]
    class_ids: tuple[str, ...]
    packed: PackedLayout | None
    is_foreign: bool
    splits: dict[str, Split]
    statistics: Statistics | None
    num_rejected: int
    rejected_sha256: str

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


def shard_row(
    name: str, *, samples: int, size_bytes: int, sha256: str, index_name: str, index: bytes
) -> dict[str, Any]:
    """Return a shard's row of `shardlist`; `index` are the sidecar's bytes."""
    return {
        "url": name,
        "nsamples": samples,
        "filesize": size_bytes,
        "sha256": sha256,
        "index": {"url": index_name, "filesize": len(index), "sha256": hashlib.sha256(index).hexdigest()},
    }


def publish_manifest(
    publish: Publish, *, split: str, shardlist: Sequence[dict[str, Any]], shards_at: str | None = None
) -> dict[str, Any]:
    """Publish a split's manifest.json, which is also a wids index, and return its row for dataset.json."""
    manifest = {"wids_version": 1, "format_version": FORMAT_VERSION, "split": split, "shardlist": list(shardlist)}
    if shards_at is not None:
        manifest["shards_at"] = shards_at
    content = _spell(manifest)
    _publish_bytes(publish, MANIFEST_FILE, content)
    samples = sum(entry["nsamples"] for entry in shardlist)
    return {"samples": samples, "manifest_sha256": hashlib.sha256(content).hexdigest()}


def publish_rejected(publish: Publish, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Publish rejected.jsonl, one object a line, and return its row for dataset.json."""
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    _publish_bytes(publish, REJECTED_FILE, content)
    return {"items": len(rows), "sha256": hashlib.sha256(content).hexdigest()}


def publish_data_set(publish: Publish, content: dict[str, Any]) -> None:
    """Publish dataset.json, sealed; to be called last."""
    _publish_bytes(publish, DATA_SET_FILE, seal({"format_version": FORMAT_VERSION, **content}))


def _publish_bytes(publish: Publish, name: str, content: bytes) -> None:
    with publish(name) as stream:
        stream.write(content)


def seal(content: dict[str, Any]) -> bytes:
    """Return the bytes of dataset.json: its last field is the SHA-256 of all bytes before that field's digits."""
    before = _spell({**content, "checksum": ""}).removesuffix(_SEAL_TAIL)
    return before + hashlib.sha256(before).hexdigest().encode() + _SEAL_TAIL


def is_sealed(raw: bytes) -> bool:
    """Tell whether the bytes of a dataset.json are those that were sealed."""
    before, digits = raw[: -_SHA256_DIGITS - len(_SEAL_TAIL)], raw[-_SHA256_DIGITS - len(_SEAL_TAIL) :]
    return digits == hashlib.sha256(before).hexdigest().encode() + _SEAL_TAIL


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
    raw = _read_bounded(path)
    content = _parse_object(path, raw, intact=is_sealed(raw))
    try:
        packed, channels = _layout(content["layout"])
        is_foreign = content["layout"]["kind"] == FOREIGN
        task, classes = _task(content["task"]), tuple(map(_text, content["classes"]))
        if packed is not None and (packed.label_bytes is None) != (task is Task.classification):
            raise ValueError(f"layout.label_bytes {packed.label_bytes!r} does not go with task {task}")
        if task is Task.regression and not 1 <= len(classes) <= MAX_LABELS:
            raise ValueError(f"{len(classes)} targets a sample: 1 to {MAX_LABELS} wanted")
        class_ids = tuple(map(_text, content.get("class_ids") or classes))
        if len(class_ids) != len(classes):
            raise ValueError(f"{len(class_ids)} class_ids for {len(classes)} classes")
        rejected = content["rejected"]
        return DataSet(
            root=root,
            name=_text(content["name"]),
            task=task,
            classes=classes,
            class_ids=class_ids,
            packed=packed,
            is_foreign=is_foreign,
            splits={
                name: _read_split(root, name, entry, packed, is_foreign=is_foreign)
                for name, entry in content["splits"].items()
            },
            statistics=_statistics(content["statistics"], channels),
            num_rejected=_count(rejected["items"]),
            rejected_sha256=_sha256(rejected["sha256"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamageError(f"{path}: not of the form in docs/FORMAT.md ({error!r})") from None


def split_names(raw: bytes) -> list[str]:
    """Return the splits that the bytes of a dataset.json name, checked for nothing but that they are plain names."""
    try:
        return [_plain_name(name) for name in json.loads(raw)["splits"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamageError(f"{DATA_SET_FILE}: not of the form in docs/FORMAT.md ({error!r})") from None


def _layout(facts: dict[str, Any]) -> tuple[PackedLayout | None, int]:
    """Return the packed geometry, None for the encoded layout, and the number of channels of its statistics."""
    if facts["kind"] in ("encoded", FOREIGN):
        return None, 3
    if facts["kind"] != "packed":
        raise ValueError(f"layout.kind {facts['kind']!r}: packed, encoded or {FOREIGN} wanted")
    shape = {name: _count(facts[name]) for name in ("height", "width", "channels")}
    label_bytes = facts.get("label_bytes")
    packed = PackedLayout(**shape, label_bytes=None if label_bytes is None else _count(label_bytes))
    for name in ("record_bytes", "pixel_offset"):
        if facts[name] != getattr(packed, name):
            raise ValueError(f"layout.{name} {facts[name]!r}: {getattr(packed, name)} follows from the shape")
    return packed, packed.channels


def _task(name: Any) -> Task:
    if not isinstance(name, str) or name not in set(Task):
        raise ValueError(f"task {name!r}: {' or '.join(Task)} wanted")
    return Task(name)


def _statistics(facts: dict[str, Any] | None, channels: int) -> Statistics | None:
    if facts is None:
        return None
    columns = [tuple(map(float, facts[name])) for name in ("mean", "std")]
    for column in columns:
        if len(column) != channels or not all(0 <= value <= 255 for value in column):
            raise ValueError(f"statistics {column}: {channels} numbers in 0..255 wanted")
    return Statistics(mean=columns[0], std=columns[1])


def _read_split(
    root: Path, name: str, entry: dict[str, Any], packed: PackedLayout | None, *, is_foreign: bool
) -> Split:
    folder = root / _plain_name(name)
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise DamageError(f"{path}: the manifest is missing")
    raw = _read_bounded(path)
    sha256 = hashlib.sha256(raw).hexdigest()
    content = _parse_object(path, raw, intact=sha256 == entry["manifest_sha256"])
    if content["split"] != name:
        raise ValueError(f"{path} is of split {content['split']!r}")
    shards_at = content.get("shards_at")
    if shards_at is not None and not is_foreign:
        raise ValueError(f"{path}: shards_at {shards_at!r}: only foreign shards lie elsewhere")
    at = folder if shards_at is None else _shards_folder(root, folder, shards_at)
    shards = tuple(_shard_entry(folder, row, packed, shards_folder=at) for row in content["shardlist"])
    if is_foreign and not all(shard.path.name.endswith(".tar") for shard in shards):
        raise ValueError(f"{path} lists a shard that is no .tar")
    names = [path for shard in shards for path in (shard.path, shard.index_path)]
    if len(set(names)) < len(names):
        raise ValueError(f"{path} lists a file twice")
    num_samples = sum(shard.num_samples for shard in shards)
    if num_samples != entry["samples"]:
        raise ValueError(f"{path} lists {num_samples} samples, {DATA_SET_FILE} says {entry['samples']!r}")
    return Split(name=name, shards=shards, num_samples=num_samples, manifest_sha256=sha256, shards_at=shards_at)


def _shards_folder(root: Path, folder: Path, shards_at: Any) -> Path:
    """Return the folder of foreign shards, the split's own where they are remote."""
    text = _text(shards_at)
    scheme, separator, _ = text.partition("://")
    if separator and scheme in SHARD_SCHEMES:
        return folder
    if separator or "\0" in text or ".." in Path(text).parts or not text:
        raise ValueError(f"shards_at {text!r}: a URL or a folder wanted, without ..")
    return root / text


def _shard_entry(folder: Path, row: dict[str, Any], packed: PackedLayout | None, *, shards_folder: Path) -> ShardEntry:
    index = row["index"]
    shard = ShardEntry(
        path=shards_folder / _plain_name(row["url"]),
        num_samples=_count(row["nsamples"], minimum=1),
        size_bytes=_count(row["filesize"]),
        sha256=_sha256(row["sha256"]),
        index_path=folder / _plain_name(index["url"]),
        index_bytes=_count(index["filesize"]),
        index_sha256=_sha256(index["sha256"]),
    )
    # Whoever allocates by a count is safe: no more samples than the file has room for.
    records_bytes = shard.size_bytes - len(END_OF_ARCHIVE)
    if packed is not None and records_bytes != shard.num_samples * packed.record_bytes:
        raise ValueError(f"{shard.path} of {shard.size_bytes} bytes cannot be {shard.num_samples} packed records")
    if records_bytes < shard.num_samples * MIN_RECORD_BYTES:
        raise ValueError(f"{shard.path} of {shard.size_bytes} bytes is too short for {shard.num_samples} records")
    return shard


def _count(value: Any, *, minimum: int = 0) -> int:
    if type(value) is not int or not minimum <= value <= MAX_COUNT:
        raise ValueError(f"{value!r}: a whole number from {minimum} to 2**53 wanted")
    return value


def _sha256(value: Any) -> str:
    if not isinstance(value, str) or not SHA256_HEX.fullmatch(value):
        raise ValueError(f"{value!r}: 64 hexadecimal digits wanted")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r}: text wanted")
    value.encode()  # a lone surrogate is no text; UnicodeEncodeError is a ValueError
    return value


def _plain_name(name: Any) -> str:
    """Refuse names that could leave the data set's folder."""
    if not isinstance(name, str) or not PLAIN_NAME.fullmatch(name):
        raise ValueError(f"name {name!r} is not a plain file name")
    return name


def _spell(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as stream:
        raw = stream.read(MAX_JSON_BYTES + 1)
    if len(raw) > MAX_JSON_BYTES:
        raise DamageError(f"{path}: over {MAX_JSON_BYTES} bytes, beyond any manifest")
    return raw


def _parse_object(path: Path, raw: bytes, *, intact: bool) -> dict[str, Any]:
    """Parse a JSON object and check its format version, then whether it is `intact`, before anything else."""
    try:
        content = json.loads(raw.decode(), parse_constant=_refuse_constant)
        version = content["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamageError(f"{path}: not a manifest ({error!r})") from None
    newer = type(version) is int and version > FORMAT_VERSION
    told = f"format version {version}, this Tarmac reads up to {FORMAT_VERSION}" if newer else ""
    if not intact:
        raise DamageError(f"{path}: its checksum does not fit: damaged, or edited by hand{told and f' ({told})'}")
    if newer:
        raise UserError(f"{path}: {told}; it was made by a newer one: upgrade, or prepare the data again")
    if version != FORMAT_VERSION or type(version) is not int:
        raise DamageError(f"{path}: format_version {version!r}")
    return dict(content)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
