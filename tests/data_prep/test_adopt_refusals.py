"""What adoption and the readers of adopted sets will not take."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web_shards import adopt, encoded

from data_prep.index import main
from data_prep.verify import main as verify
from pipeline.data.packed import PackedReader
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import read_data_set, seal
from tiny_data import tree


def test_bad_samples_stop_it_unless_they_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    with webdataset.TarWriter(str(tmp_path / "web" / "x-train.tar")) as writer:
        writer.write({"__key__": "good", "jpg": encoded(1), "cls": 0})
        writer.write({"__key__": "no-label", "jpg": encoded(2)})
        writer.write({"__key__": "no-image", "cls": 1})
        writer.write({"__key__": "no-picture", "jpg": b"no picture", "cls": 1})
    with pytest.raises(UserError, match=r"3 bad samples are more than max_rejected=0"):
        adopt(tmp_path / "web")
    adopt(tmp_path / "web", "max_rejected=3")
    rejected = [json.loads(line) for line in (tmp_path / "web" / "rejected.jsonl").read_text().splitlines()]
    assert [row["source_key"] for row in rejected] == [
        f"x-train.tar/no-{what}" for what in ("label", "image", "picture")
    ]
    assert read_data_set(tmp_path / "web").split("train").num_samples == 1


def test_errors_name_the_options_of_this_command(tmp_path: Path, shards: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "no-label.tar")) as writer:
        writer.write({"__key__": "0", "jpg": encoded(0)})
    (tmp_path / "names.txt").write_text("cat\n")
    for options, told in (
        ([f"path={tmp_path / 'nowhere'}"], r"^path=.*/nowhere: no tars there \(\*\.tar\); correct path$"),
        ([f"path={shards}/{{8..9}}.tar"], r"^path=.*: 2 of 2 tars are not there, such as .*; correct path$"),
        ([f"path={shards}", "train=pets*"], r"^path=.* fits train=pets\* and val=\*val\*; make one of them narrower$"),
        ([f"path={shards}", "classes=none.txt"], r"^classes=none\.txt: no such file"),
        ([f"path={shards}", f"classes={tmp_path / 'names.txt'}"], r"label '1' is no class in classes$"),
        ([f"path={tmp_path / 'no-label.tar'}", f"out={tmp_path / 'out'}"], r"\.json with the field label_field, "),
    ):
        spelled = [f'path="{options[0].removeprefix("path=")}"', *options[1:]]
        with pytest.raises(UserError, match=told) as caught:
            main(spelled)
        assert "source." not in str(caught.value)


def test_refusals_are_one_line_and_leave_nothing(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(UserError, match="no tars"):
        adopt(tmp_path / "nowhere")
    (shards / "deep").mkdir()
    shutil.copy(shards / "pets-train-000.tar", shards / "deep" / "other-train.tar")
    with pytest.raises(UserError, match="lie in several folders"):
        adopt(shards)
    shutil.rmtree(shards / "deep")
    (shards / "pets-train-000.tar").rename(shards / "pets train.tar")
    with pytest.raises(UserError, match="rename it"):
        adopt(shards)
    (shards / "pets train.tar").rename(shards / "pets-train-000.tar")
    assert not (shards / "dataset.json").exists()
    adopt(shards)
    with pytest.raises(UserError, match="holds a data set already"):
        adopt(shards)
    with pytest.raises(UserError, match="packed"):
        PackedReader(read_data_set(shards), "train")


@pytest.mark.parametrize("name", ["card.html", "rejected.jsonl", "train/manifest.json"])
def test_files_of_the_users_are_not_written_over(shards: Path, name: str) -> None:
    (shards / name).parent.mkdir(exist_ok=True)
    (shards / name).write_text("mine")
    before = tree(shards)
    with pytest.raises(UserError, match=f"{name} is there already"):
        adopt(shards)
    assert tree(shards) == before


def test_a_manifest_may_not_point_out_of_where_it_says(shards: Path) -> None:
    adopt(shards)
    data_set = read_data_set(shards)
    assert {shard.path.parent for shard in data_set.split("train").shards} == {shards}
    manifest = json.loads((shards / "train" / "manifest.json").read_bytes())
    content = json.loads((shards / "dataset.json").read_bytes())
    content.pop("checksum")
    for place in ("../web", "a/../..", "", 7, "x\0y", "file:///etc", "ftp://host/a", "s3:/../a"):
        raw = json.dumps({**manifest, "shards_at": place}).encode()
        (shards / "train" / "manifest.json").write_bytes(raw)
        content["splits"]["train"]["manifest_sha256"] = hashlib.sha256(raw).hexdigest()
        (shards / "dataset.json").write_bytes(seal(content))
        with pytest.raises(UserError, match=r"not of the form in docs/FORMAT.md"):
            read_data_set(shards)


def test_nothing_but_a_tar_is_opened_where_foreign_shards_lie(shards: Path) -> None:
    adopt(shards)
    manifest = json.loads((shards / "train" / "manifest.json").read_bytes())
    manifest["shardlist"][0]["url"] = "shadow"
    raw = json.dumps({**manifest, "shards_at": "/etc"}).encode()
    (shards / "train" / "manifest.json").write_bytes(raw)
    content = json.loads((shards / "dataset.json").read_bytes())
    content.pop("checksum")
    content["splits"]["train"]["manifest_sha256"] = hashlib.sha256(raw).hexdigest()
    (shards / "dataset.json").write_bytes(seal(content))
    with pytest.raises(UserError, match=r"lists a shard that is no \.tar"):
        read_data_set(shards)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**9), st.binary(min_size=1, max_size=3))
def test_a_damaged_tar_is_refused_or_adopted_as_it_is(tmp_path: Path, place: int, piece: bytes) -> None:
    root = tmp_path / "fuzz"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    with webdataset.TarWriter(str(root / "a-train.tar"), mtime=0) as writer:
        for number in range(2):
            writer.write({"__key__": f"{number}", "png": encoded(number, "PNG"), "cls": number})
    content = bytearray((root / "a-train.tar").read_bytes())
    place %= len(content)
    content[place : place + len(piece)] = piece
    (root / "a-train.tar").write_bytes(content)
    try:
        main([f"path={root}", "max_rejected=2"])
    except UserError:
        assert not (root / "dataset.json").exists()
        return
    assert verify([f"path={root}", "decode=0"]) == 0
