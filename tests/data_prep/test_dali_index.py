"""Indexes for NVIDIA DALI."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from web_shards import adopt

from pipeline.shards.errors import UserError
from tiny_data import prepare_pictures, write_pictures


def test_dali_indexes_point_at_every_member(tmp_path: Path) -> None:
    """Oracle: each component, read where the index says, is what tarfile gives by its name."""
    write_pictures(tmp_path / "pets", num_each=5)
    for layout in ("packed", "encoded"):
        out = tmp_path / layout
        prepare_pictures(tmp_path / "pets", out, f"layout={layout}", "layout.shard_bytes=20000")
        adopt(out, "export=wds2idx", f"out={tmp_path / 'dali' / layout}")
        tars = sorted(out.glob("*/*.tar"))
        indexes = sorted((tmp_path / "dali" / layout).glob("*/*.idx"))
        assert [path.stem for path in indexes] == [path.stem for path in tars]
        for tar, index in zip(tars, indexes, strict=True):
            first, *lines = index.read_text().splitlines()
            with tarfile.open(tar) as archive:
                members = archive.getmembers()
                assert first == f"v1.2 {len(lines)}"
                assert len(lines) * 2 == len(members)
                parts = [line.split(" ")[start : start + 4] for line in lines for start in range(0, 8, 4)]
                for (extension, offset, size, name), member in zip(parts, members, strict=True):
                    stream = archive.extractfile(member)
                    assert stream is not None
                    assert (name, extension) == (member.name, member.name.partition(".")[2])
                    assert tar.read_bytes()[int(offset) : int(offset) + int(size)] == stream.read()


def test_members_that_are_of_no_sample_are_not_in_dalis_index(tmp_path: Path) -> None:
    tar = tmp_path / "web" / "a.tar"
    tar.parent.mkdir()

    def write(*names: str) -> None:
        with tarfile.open(tar, "w") as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = 3
                archive.addfile(info, io.BytesIO(b"abc"))

    write("README", "v1.2/x.jpg", ".hidden", "v1.2/x.seg.png", "v1.2/y.", "v1.2/z.jpg")
    adopt(tar.parent, "export=wds2idx", f"out={tmp_path}")
    assert (tmp_path / "a.idx").read_text() == (
        "v1.2 2\njpg 1536 3 v1.2/x.jpg seg.png 3584 3 v1.2/x.seg.png\njpg 5632 3 v1.2/z.jpg\n"
    )
    for space in " \t\n\v\f\r":
        write(f"a{space}b.jpg")
        with pytest.raises(UserError, match="a name with white space"):
            adopt(tar.parent, "export=wds2idx", f"out={tmp_path}")
