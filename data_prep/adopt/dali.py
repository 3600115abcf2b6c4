"""Indexes for NVIDIA DALI's `fn.readers.webdataset`, in the text form of its own wds2idx tool.

    export_dali(open_store("data/pets"), open_store("data/pets/dali"))

One file a tar, `train/shard-000000.idx`: a line "v1.2 <samples>", then a line a sample: extension, offset of the
content, size and member name of each of its members, with spaces between. Members without a key or an extension are
of no sample. (https://github.com/NVIDIA/DALI, tools/wds2idx.py)
"""

from __future__ import annotations

from itertools import groupby

from data_prep.archives.tar import TarMember, walk_tar
from data_prep.progress import Progress
from pipeline.shards.errors import UserError
from pipeline.storage import Store

VERSION = "v1.2"
_SEPARATORS = frozenset(" \t\n\v\f\r")


def export_dali(store: Store, out: Store) -> int:
    """Write an index for each tar of a store and return their number.

    Raises:
        UserError: no tar there, or a member name with white space, which the form cannot hold.
    """
    tars = [file for file in store.list_files() if file.name.endswith(".tar")]
    if not tars:
        raise UserError(f"path={store.location}: no tars there (*.tar); correct path")
    with Progress(total=len(tars), unit="shards", label="exporting") as progress:
        for file in tars:
            content = dali_index(list(walk_tar(store, file.name)), where=f"{store.location}/{file.name}")
            with out.publish(file.name.removesuffix(".tar") + ".idx") as stream:
                stream.write(content.encode())
            progress.update(1)
    return len(tars)


def dali_index(members: list[TarMember], *, where: str) -> str:
    """Return the text of one tar's index.

    Raises:
        UserError: no member with a name and an extension, or a name with white space.
    """
    shown = [member for member in members if _stem(member.name).rpartition("/")[2] and _extension(member.name)]
    if spaced := next((member.name for member in shown if _SEPARATORS & set(member.name)), None):
        raise UserError(f"{where}: {spaced!r}: a name with white space, which DALI's index cannot hold")
    lines = [
        " ".join(f"{_extension(member.name)} {member.offset} {member.size_bytes} {member.name}" for member in sample)
        for _, sample in groupby(shown, key=lambda member: _stem(member.name))
    ]
    if not lines:
        raise UserError(f"{where}: no sample in it")
    return "\n".join([f"{VERSION} {len(lines)}", *lines]) + "\n"


def _stem(name: str) -> str:
    """Return a member's name up to the first dot of its last part."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _extension(name: str) -> str:
    """Return what follows the first dot of a member's last part."""
    return name.rpartition("/")[2].partition(".")[2]
