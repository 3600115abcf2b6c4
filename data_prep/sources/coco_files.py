"""Where COCO's pictures and annotations lie below a folder or URL, in any of the ways they are kept.

places = find_places(open_store("data/coco"))
places["val"].pictures["000000000139.jpg"]      # Picture(path="val2017.zip", offset=38, size_bytes=161811)
pieces = read_annotations(store, places["val"].instances)
"""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, cast

from data_prep.archives.zip import ZipEntry, list_zip
from data_prep.sources.rows import pieces_of
from data_prep.store_file import open_stored
from pipeline.shards.errors import DamageError, UserError
from pipeline.storage import Store

logger = logging.getLogger(__name__)

PICTURE_NAMES = {"train": "train2017", "val": "val2017"}
ANNOTATIONS_ZIP = "annotations_trainval2017.zip"
URL = "http://images.cocodataset.org"
MAX_ANNOTATION_BYTES = 4 << 30


class Picture(NamedTuple):
    """Where a picture lies: a file, or an entry of a zip."""

    path: str
    offset: int
    size_bytes: int


class AnnotationFile(NamedTuple):
    """A json file, or the entry of a zip that holds it."""

    path: str
    entry: ZipEntry | None

    def __str__(self) -> str:
        return f"{self.path}, {self.entry.name}" if self.entry else self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a split lies; its pictures by the file name that the annotations use."""

    pictures: Mapping[str, Picture]
    instances: AnnotationFile
    captions: AnnotationFile | None


def find_places(store: Store) -> dict[str, Place]:
    """Return the splits whose pictures and annotations are there, train first.

    Raises:
        UserError: there is none; the message says what was looked for and where it can be had.
    """
    zip_path = _first(store, (ANNOTATIONS_ZIP, f"annotations/{ANNOTATIONS_ZIP}"))
    zipped = {entry.name.rpartition("/")[2]: entry for entry in list_zip(store, zip_path)} if zip_path else {}

    def annotation_file(name: str) -> AnnotationFile | None:
        if path := _first(store, (f"annotations/{name}", name)):
            return AnnotationFile(path, None)
        return AnnotationFile(zip_path, zipped[name]) if zip_path and name in zipped else None

    places: dict[str, Place] = {}
    for split, pictures_name in PICTURE_NAMES.items():
        instances = annotation_file(f"instances_{pictures_name}.json")
        pictures = _find_pictures(store, pictures_name)
        if instances and pictures:
            captions = annotation_file(f"captions_{pictures_name}.json")
            places[split] = Place(pictures=pictures, instances=instances, captions=captions)
        elif instances:
            logger.warning("%s: no %s.zip or %s/: no split %s", store.location, pictures_name, pictures_name, split)
        elif pictures:
            logger.warning("%s: no instances_%s.json: no split %s", store.location, pictures_name, split)
    if not places:
        raise UserError(_missing(store))
    return places


def read_annotations(store: Store, file: AnnotationFile) -> Iterator[bytes]:
    """Yield the bytes of an annotation file in pieces; one in a zip is unpacked as it is read.

    Raises:
        DamageError: the zip is damaged; its CRC-32 is known to fit when the last piece has come.
        UserError: the file is larger than 4 GiB, unpacked.
    """
    with open_stored(store, file.path) as stream:
        if file.entry is None:
            yield from pieces_of(stream)
            return
        if file.entry.unpacked_bytes > MAX_ANNOTATION_BYTES:
            raise UserError(f"{store.location}/{file}: {file.entry.unpacked_bytes:,} bytes; refused")
        try:
            with zipfile.ZipFile(stream) as archive:
                (info,) = (info for info in archive.infolist() if info.header_offset == file.entry.offset)
                with archive.open(info) as unpacked:
                    yield from pieces_of(cast(BinaryIO, unpacked))
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DamageError(f"{store.location}/{file}: damaged ({error}); get the file again") from None


def _find_pictures(store: Store, name: str) -> dict[str, Picture]:
    """Return the pictures of `name`.zip, or else of the folder; none where neither is there."""
    if path := _first(store, (f"{name}.zip", f"zips/{name}.zip", f"images/{name}.zip")):
        return {
            entry.name.removeprefix(f"{name}/"): Picture(path, entry.offset, entry.size_bytes)
            for entry in list_zip(store, path)
        }
    if store.location.startswith(("http://", "https://")):  # which cannot list a folder
        return {}
    for folder in (name, f"images/{name}"):
        if files := store.list_files(folder):
            return {file.name.removeprefix(f"{folder}/"): Picture(file.name, 0, file.size_bytes) for file in files}
    return {}


def _first(store: Store, paths: Iterable[str]) -> str | None:
    return next((path for path in paths if store.size_of(path) is not None), None)


def _missing(store: Store) -> str:
    names = " and ".join(f"{name}.zip (or {name}/)" for name in PICTURE_NAMES.values())
    root = store.location
    fetch = (
        f" For val alone: curl --create-dirs --output-dir {root} --remote-name-all {URL}/zips/val2017.zip"
        f" {URL}/annotations/{ANNOTATIONS_ZIP}, then type:"
    )
    return (
        f"source.root={root}: COCO 2017 is not there. Looked for {names}, and for {ANNOTATIONS_ZIP} (or"
        f" annotations/instances_*2017.json), and found no split whole. They can be had without an account: {URL}"
        f"/zips/train2017.zip (19 GB), {URL}/zips/val2017.zip (0.8 GB), {URL}/annotations/{ANNOTATIONS_ZIP} (0.25 GB)."
        f"{fetch if '://' not in root else ' Then type:'} make prepare-data"
        f' ARGS="source=coco source.root={root if "://" not in root else "FOLDER"} out=data/coco-64"'
    )
