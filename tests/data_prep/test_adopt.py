"""Foreign shards, written by the webdataset package and by tarfile, adopted where they lie."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image
from web_shards import adopt, encoded, write_shards

from data_prep.adopt import adopt as adopt_module
from data_prep.adopt import sidecar
from data_prep.index import main
from data_prep.verify import main as verify
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import read_data_set
from tiny_data import prepare_pictures, rows_of, run_module, stored_image, tree, write_pictures


def test_every_sample_is_found_with_its_label_and_size_and_no_tar_is_touched(tmp_path: Path) -> None:
    samples = write_shards(tmp_path / "web", counts={"train": 10, "val": 3})
    tars = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "web").glob("*.tar")}
    adopt(tmp_path / "web")
    data_set = read_data_set(tmp_path / "web")
    found = {}
    for split in ("train", "val"):
        for shard, row in rows_of(data_set, split):
            found[row["source_key"].decode()] = (stored_image(shard, row), int(row["label"]))
            width, height = Image.open(io.BytesIO(stored_image(shard, row))).size
            assert (int(row["width"]), int(row["height"])) == (width, height)
    assert found == samples
    assert data_set.classes == ("0", "1", "2")
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tars} == tars
    assert verify([f"path={tmp_path / 'web'}"]) == 0
    assert (tmp_path / "web" / "card.html").is_file()
    assert not (tmp_path / "web" / "plan").exists()


def test_sidecars_can_go_elsewhere_and_name_where_the_tars_are(shards: Path, tmp_path: Path) -> None:
    before = tree(shards)
    adopt(shards, f"out={tmp_path / 'out'}", "workers=3")
    assert tree(shards) == before
    data_set = read_data_set(tmp_path / "out")
    assert data_set.split("train").shards_at == str(shards)
    assert verify([f"path={tmp_path / 'out'}"]) == 0
    assert {shard.path.parent for shard in data_set.split("val").shards} == {shards}


def test_any_number_of_threads_and_an_interruption_give_the_same_bytes(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopt(shards, f"out={tmp_path / 'a'}", "workers=1")
    read: list[str] = []
    index_tar = adopt_module.index_tar

    def counting(store, name, found, **rest):  # type: ignore[no-untyped-def]
        read.append(name)
        if len(read) == 3:
            raise KeyboardInterrupt
        return index_tar(store, name, found, **rest)

    monkeypatch.setattr(adopt_module, "index_tar", counting)
    with pytest.raises(KeyboardInterrupt):
        adopt(shards, f"out={tmp_path / 'b'}", "workers=1")
    assert not (tmp_path / "b" / "dataset.json").exists()
    adopt(shards, f"out={tmp_path / 'b'}", "workers=4")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    # Two were read before, the third was not finished.
    assert sorted(read) == sorted([*{*read}, read[2]])


def test_our_own_encoded_shards_adopted_have_our_own_sidecars_numbers(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pets", num_each=5)
    ours = prepare_pictures(tmp_path / "pets", tmp_path / "set", "layout=encoded", "layout.shard_bytes=20000")
    web = tmp_path / "web"
    for split in ("train", "val"):
        (web / split).mkdir(parents=True)
        for shard in ours.split(split).shards:
            shutil.copy(shard.path, web / split / shard.path.name)
    adopt(web)
    adopted = read_data_set(web)
    assert adopted.split("train").shards_at is None
    columns = ["record_offset", "record_bytes", "image_offset", "image_bytes", "crc32", "height", "width", "label"]
    for split in ("train", "val"):
        for (_, own), (_, found) in zip(rows_of(ours, split), rows_of(adopted, split), strict=True):
            assert [int(own[name]) for name in columns] == [int(found[name]) for name in columns]


def test_lists_of_labels_make_a_multilabel_set(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n")
    with webdataset.TarWriter(str(tmp_path / "web" / "all-train.tar")) as writer:
        for number, labels in enumerate((["owl", "cat"], [], ["dog"])):
            writer.write({"__key__": f"{number}", "png": encoded(number, "PNG"), "json": {"tags": labels}})
    adopt(tmp_path / "web", "label_field=tags", f"classes={tmp_path / 'names.txt'}")
    data_set = read_data_set(tmp_path / "web")
    assert data_set.task == "multilabel"
    assert [row["labels"].tolist() for _, row in rows_of(data_set, "train")] == [[0, 2], [-1, -1], [1, -1]]
    assert verify([f"path={tmp_path / 'web'}"]) == 0


def test_the_image_of_several_in_a_sample_is_the_one_that_is_named(tmp_path: Path) -> None:
    for folder in ("first", "named"):
        (tmp_path / folder).mkdir()
        with webdataset.TarWriter(str(tmp_path / folder / "a-train.tar")) as writer:
            images = {"jpg": encoded(1), "left.png": encoded(2, "PNG"), "mask.jpg": encoded(3)}
            writer.write({"__key__": "both", "cls": 0, **images})
            writer.write({"__key__": "jpg-alone", "cls": 0, "jpg": encoded(4)})
    adopt(tmp_path / "first")
    assert [stored_image(*found) for found in rows_of(read_data_set(tmp_path / "first"), "train")] == [
        encoded(1),
        encoded(4),
    ]
    with pytest.raises(UserError, match=r"a-train\.tar/jpg-alone: no image in the sample \(left\.png\)"):
        adopt(tmp_path / "named", "image=left.png")
    adopt(tmp_path / "named", "image=.left.PNG", "max_rejected=1")
    assert [stored_image(*found) for found in rows_of(read_data_set(tmp_path / "named"), "train")] == [
        images["left.png"]
    ]
    assert verify([f"path={tmp_path / 'named'}"]) == 0


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_flavour_of_tar_verifies(tmp_path: Path, tar_format: int) -> None:
    (tmp_path / "web").mkdir()
    long = "folder/" * 12
    with tarfile.open(tmp_path / "web" / "a-train.tar", "w", format=tar_format) as archive:
        for number in range(3):
            for extension, content in (("cls", b"1\n"), ("jpg", encoded(number))):
                info = tarfile.TarInfo(f"{long}{number}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    adopt(tmp_path / "web")
    assert verify([f"path={tmp_path / 'web'}"]) == 0
    assert rows_of(read_data_set(tmp_path / "web"), "train")[2][1]["source_key"].decode() == f"{long}2"


def test_a_flipped_byte_is_found_and_named(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adopt(shards)
    path = shards / "pets-train-001.tar"
    whole = path.read_bytes()
    row = rows_of(read_data_set(shards), "train")[5][1]
    content = bytearray(whole)
    content[int(row["image_offset"]) + 40] ^= 8
    path.write_bytes(content)
    assert verify([f"path={shards}"]) == 1
    printed = capsys.readouterr().out
    assert f"{path}: record 1 is damaged, CRC-32 differs (sample train/0005)" in printed
    assert "repair" not in printed
    # Also where no record is, as in the zeros at the end.
    path.write_bytes(whole[:-1] + b"\1")
    assert verify([f"path={shards}"]) == 1


@pytest.mark.slow
def test_the_command_as_it_is_typed(shards: Path) -> None:
    ended = run_module("data_prep.index", f"path={shards}")
    assert (ended.returncode, ended.stdout) == (0, "web: 10 train, 3 val samples of 3 classes adopted\n"), ended.stderr
    assert run_module("data_prep.index", "path=/nowhere").returncode == 2
    assert "export=none" in run_module("data_prep.index", "--help").stdout
    assert np.load(shards / "train" / "pets-train-000.idx.npy").shape == (4,)


def test_what_an_earlier_run_left_under_other_labels_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "web").mkdir()
    for shard in range(2):
        with webdataset.TarWriter(str(tmp_path / "web" / f"{shard}-train.tar")) as writer:
            for number in range(3):
                facts = {"rank": number, "back": 2 - number}
                writer.write({"__key__": f"{number}", "jpg": encoded(number), "json": facts})

    index_tar = adopt_module.index_tar

    def first_alone(store, tar, found, **rest):  # type: ignore[no-untyped-def]
        if tar.startswith("1"):
            raise KeyboardInterrupt
        return index_tar(store, tar, found, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(adopt_module, "index_tar", first_alone)
        with pytest.raises(KeyboardInterrupt):
            adopt(tmp_path / "web", "label_field=rank", "workers=1")
    assert (tmp_path / "web" / "train" / "0-train.idx.npy").exists()
    adopt(tmp_path / "web", "label_field=back", "workers=1")
    found = [int(row["label"]) for _, row in rows_of(read_data_set(tmp_path / "web"), "train")]
    assert found == [2, 1, 0, 2, 1, 0]


def test_other_files_beside_foreign_shards_are_no_damage_but_other_shards_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    web = tmp_path / "web"
    write_shards(web / "train", counts={"train": 3})
    (web / "train" / "README.md").write_text("about these tars")
    adopt(web)
    assert verify([f"path={web}"]) == 0
    shutil.copy(web / "train" / "pets-train-000.tar", web / "train" / "more.tar")
    assert verify([f"path={web}"]) == 1
    assert f"damaged: {web}/train/more.tar: not in the manifest" in capsys.readouterr().out


def test_braces_on_the_command_line_name_the_tars(shards: Path, tmp_path: Path) -> None:
    assert main([f'path="{shards}/pets-train-{{000..001}}.tar"', f"out={tmp_path / 'out'}"]) == 0
    assert read_data_set(tmp_path / "out").split("train").num_samples == 8


def test_a_sample_too_large_to_be_held_is_left_out_and_the_checksum_still_covers_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar, "MAX_RECORD_BYTES", 10_000)
    (tmp_path / "web").mkdir()
    tar = tmp_path / "web" / "a-train.tar"
    with webdataset.TarWriter(str(tar)) as writer:
        for number, side in enumerate((8, 200, 8)):
            writer.write({"__key__": f"{number}", "png": encoded(number, "PNG", width=side, height=side), "cls": 0})
    adopt(tmp_path / "web", "max_rejected=1")
    data_set = read_data_set(tmp_path / "web")
    assert [row["source_key"] for _, row in rows_of(data_set, "train")] == [b"0", b"2"]
    assert data_set.split("train").shards[0].sha256 == hashlib.sha256(tar.read_bytes()).hexdigest()
    (rejected,) = (tmp_path / "web" / "rejected.jsonl").read_text().splitlines()
    assert "at most 10,000 wanted" in rejected
    assert verify([f"path={tmp_path / 'web'}"]) == 0
