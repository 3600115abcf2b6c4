"""The archives read by ranges from a web server, which cannot list what it has."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep.sources.imagenet1k import open_imagenet1k
from data_prep.sources.imagenet21k import open_imagenet21k
from data_prep.sources.tiny_imagenet import open_tiny_imagenet
from imagenet_sets import NAMES, TinyImagenet1k, listed, tar_bytes
from pipeline.shards.errors import UserError
from served import served
from tiny_data import prepare_here, tree

TINY = TinyImagenet1k.make()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The URL of a served folder, and the folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    with served(folder) as url:
        yield url, folder


def test_imagenet1ks_tars_are_listed_and_read_where_they_lie(web: tuple[str, Path]) -> None:
    url, folder = web
    TINY.write_archives(folder)
    remote, local = open_imagenet1k(url), open_imagenet1k(str(folder))
    assert remote.classes == NAMES
    for split in ("train", "val"):
        assert listed(remote, split) == listed(local, split)


def test_a_data_set_made_over_the_web_has_the_same_shards(web: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = web
    TINY.write_archives(folder)
    shards = []
    for name, root in (("remote", url), ("local", str(folder))):
        prepare_here(tmp_path / name, "source=imagenet1k", f"source.root={root}", "layout.resolution=8")
        shards.append({path: content for path, content in tree(tmp_path / name).items() if path.endswith(".tar")})
    assert shards[0] == shards[1]
    assert len(shards[0]) == 2


def test_kaggles_zip_is_read_with_the_lists_inside_it(web: tuple[str, Path]) -> None:
    url, folder = web
    TINY.write_zip(folder)
    assert listed(open_imagenet1k(url), "val") == dict(TINY.val)
    assert open_imagenet1k(url).classes == NAMES


def test_imagenet21ks_class_tars_need_a_list_of_ids_there(web: tuple[str, Path]) -> None:
    url, folder = web
    for class_id, images in TINY.train.items():
        (folder / f"{class_id}.tar").write_bytes(tar_bytes(images))
    with pytest.raises(UserError, match=r"no imagenet21k_wordnet_ids.txt that says which class tars there are"):
        _ = open_imagenet21k(url, min_images=1, val_per_class=0).splits
    (folder / "imagenet21k_wordnet_ids.txt").write_text("".join(f"{class_id}\n" for class_id in reversed(TINY.train)))
    remote = open_imagenet21k(url, min_images=1, val_per_class=0)
    assert listed(remote, "train") == listed(open_imagenet21k(str(folder), min_images=1, val_per_class=0), "train")


def test_one_tar_of_class_tars_may_be_named_by_its_url(web: tuple[str, Path]) -> None:
    url, folder = web
    (folder / "fall11_whole.tar").write_bytes(TINY.train_tar())
    for root in (url, f"{url}/fall11_whole.tar"):
        assert len(listed(open_imagenet21k(root, min_images=1, val_per_class=0), "train")) == 12


def test_a_packed_tar_is_indexed_over_the_web_and_read_by_ranges(
    web: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = web
    monkeypatch.setenv("HOME", str(folder.parent / "home"))
    (folder / "winter21_whole.tar.gz").write_bytes(gzip.compress(TINY.train_tar()))
    found = listed(open_imagenet21k(url, min_images=1, val_per_class=0), "train")
    (folder / "winter21_whole.tar.gz").unlink()
    (folder / "fall11_whole.tar").write_bytes(TINY.train_tar())
    assert found == listed(open_imagenet21k(url, min_images=1, val_per_class=0), "train")


def test_where_a_server_has_nothing_the_message_says_what_was_looked_for(web: tuple[str, Path]) -> None:
    url, _ = web
    with pytest.raises(UserError, match=rf"source.root={url}: no ImageNet-1k in it; looked for ILSVRC2012_img_train"):
        open_imagenet1k(url)
    with pytest.raises(UserError, match=rf"source.root={url}: no Tiny ImageNet in it"):
        open_tiny_imagenet(url)
