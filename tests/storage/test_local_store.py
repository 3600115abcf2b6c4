from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.shards.errors import DamageError, UserError
from pipeline.storage import StoredFile, open_store
from pipeline.storage.local import MAX_OPEN_FILES
from tiny_data import ROOT, tree


def num_open_files(folder: Path) -> int:
    """How many of this process's descriptors are of files in `folder`; other tests' leftovers do not count."""
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor of the listing itself
            count += descriptor.readlink().is_relative_to(folder)
    return count


@pytest.mark.parametrize("form", ["{}", "{}/", "file://{}", "file://localhost{}"])
def test_a_folder_may_be_written_in_several_ways(form: str, tmp_path: Path) -> None:
    (tmp_path / "a b.bin").write_bytes(b"0123456789")
    location = form.format(str(tmp_path).replace(" ", "%20"))
    assert open_store(location).read_at("a b.bin", offset=3, size_bytes=4) == b"3456"


def test_the_home_folder_may_be_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").write_bytes(b"x")
    assert open_store("~").size_of("a") == 1


@pytest.mark.parametrize("location", ["ftp://host/a", "hdfs://a", "file://host/a", "file:relative://x"])
def test_an_unknown_location_is_an_error_that_names_it(location: str) -> None:
    with pytest.raises(UserError, match=location):
        open_store(location)


def test_local_use_loads_neither_obstore_nor_torch() -> None:
    script = "import sys; from pipeline.storage import open_store; open_store('.'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"obstore", "torch"} & set(done.stdout.split())
    script = "import sys; import pipeline.storage.remote; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "obstore" in done.stdout.split()
    assert "torch" not in done.stdout.split()


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/../b", "/etc/passwd", "a//b", "a/", "./a", "a\\b", "a\0b"])
def test_a_name_that_is_no_name_of_a_file_below_is_refused_everywhere(name: str, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    calls = [
        lambda: store.size_of(name),
        lambda: store.read_bytes(name, max_bytes=1),
        lambda: store.read_at(name, offset=0, size_bytes=1),
        lambda: store.remove(name),
        lambda: store.local_path(name),
        lambda: store.publish(name).__enter__(),
        *([lambda: store.list_files(name)] if name else []),
    ]
    for call in calls:
        with pytest.raises(UserError, match="no name of a file in a store"):
            call()


def test_sizes_and_bytes_are_the_files(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(content)
    store = open_store(str(tmp_path))
    assert store.size_of("sub/a") == len(content)
    assert store.size_of("sub") is store.size_of("no") is store.size_of("sub/a/b") is None
    assert store.read_bytes("sub/a", max_bytes=len(content)) == content
    for offset, size_bytes in ((0, 0), (0, 1), (5, 100), (len(content) - 1, 1), (0, len(content)), (len(content), 0)):
        assert store.read_at("sub/a", offset=offset, size_bytes=size_bytes) == content[offset : offset + size_bytes]
    assert store.local_path("sub/a") == tmp_path / "sub" / "a"


@pytest.mark.parametrize(("offset", "size_bytes"), [(0, 101), (100, 1), (1 << 40, 1), (50, 1 << 45)])
def test_a_read_past_the_end_is_damage_that_names_the_file_and_sets_no_memory_aside(
    offset: int, size_bytes: int, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(bytes(100))
    with pytest.raises(DamageError, match=rf"{tmp_path}/a: ends at byte 100, {offset + size_bytes} were wanted"):
        open_store(str(tmp_path)).read_at("a", offset=offset, size_bytes=size_bytes)


def test_a_file_longer_than_the_limit_is_damage_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(100))
    with pytest.raises(DamageError, match=r"a: longer than the 99 bytes"):
        open_store(str(tmp_path)).read_bytes("a", max_bytes=99)


def test_a_missing_or_unreadable_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=rf"{tmp_path}/no: missing"):
        store.read_at("no", offset=0, size_bytes=1)
    with pytest.raises(UserError, match=rf"{tmp_path}/no: missing"):
        store.read_bytes("no", max_bytes=1)
    with pytest.raises(UserError, match=r"folder: cannot be read \(Is a directory\)"):
        store.read_at("folder", offset=0, size_bytes=1)


def test_a_listing_has_every_file_sorted_by_name_and_no_unfinished_one(tmp_path: Path) -> None:
    names = ["b/2", "b/1", "a.tar", "b.tar", "c/d/e", ".hidden"]
    for name in [*names, ".a.tar.part", "b/.1.part"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "link").symlink_to(tmp_path / "a.tar")
    store = open_store(str(tmp_path))
    expected = [StoredFile(name=name, size_bytes=len(name)) for name in names]
    linked = StoredFile(name="link", size_bytes=len("a.tar"))
    assert store.list_files() == sorted([*expected, linked], key=lambda file: file.name)
    assert [file.name for file in store.list_files("b")] == ["b/1", "b/2"]
    assert store.list_files("no") == open_store(str(tmp_path / "no")).list_files() == []


def test_a_link_to_a_folder_is_refused_when_listed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "loop").symlink_to(tmp_path)
    with pytest.raises(UserError, match="loop: a link to a folder; refused"):
        open_store(str(tmp_path)).list_files()


def test_a_name_that_is_not_utf8_is_refused_when_listed(tmp_path: Path) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9")).write_bytes(b"")
    with pytest.raises(UserError, match="is not UTF-8"):
        open_store(str(tmp_path)).list_files()


def test_a_published_file_is_whole_or_not_there(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "new" / "folder"))
    with store.publish("sub/a.bin") as stream:
        stream.write(b"1" * 100_000)
        assert store.size_of("sub/a.bin") is None
        assert store.list_files() == []
    assert store.read_bytes("sub/a.bin", max_bytes=100_000) == b"1" * 100_000
    with pytest.raises(ValueError, match="closed"), store.publish("sub/a.bin") as stream:
        stream.close()
    assert tree(tmp_path) == {"new/folder/sub/a.bin": b"1" * 100_000}


def test_an_error_of_the_writers_own_passes_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="mine"), open_store(str(tmp_path)).publish("a"):
        raise FileNotFoundError("mine")


def test_what_is_published_or_removed_is_seen_at_once(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for content in (b"old", b"new!"):
        with store.publish("a") as stream:
            stream.write(content)
        assert store.read_at("a", offset=0, size_bytes=len(content)) == content
    store.remove("a")
    store.remove("a")
    with pytest.raises(UserError, match="missing"):
        store.read_at("a", offset=0, size_bytes=1)


def test_a_place_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = open_store(str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"file/a: cannot be written \(.*\)"), store.publish("a"):
        pass
    with pytest.raises(UserError, match=r"file/a: cannot be removed \(Not a directory\)"):
        store.remove("a")


@pytest.mark.slow
def test_many_threads_and_many_files_give_right_bytes_with_few_descriptors(tmp_path: Path) -> None:
    num_files = 4 * MAX_OPEN_FILES
    for number in range(num_files):
        (tmp_path / str(number)).write_bytes(b"%06d" % number * 100)
    store = open_store(str(tmp_path))

    def read(step: int) -> bool:
        number = step * 7919 % num_files
        return store.read_at(str(number), offset=6 * (step % 99), size_bytes=6) == b"%06d" % number

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, range(20_000)))
    assert 0 < num_open_files(tmp_path) <= MAX_OPEN_FILES
    store = open_store(str(tmp_path))  # the first is gone, and its descriptors with it
    assert num_open_files(tmp_path) == 0
