from __future__ import annotations

from pathlib import Path

import pytest
from braceexpand import braceexpand
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources.patterns import expand_braces, find_files, split_of_name
from pipeline.shards.errors import UserError
from served import served

counted = st.tuples(st.integers(0, 20), st.integers(0, 5), st.integers(1, 3)).map(
    lambda drawn: f"{{{drawn[0]:0{drawn[2]}d}..{drawn[0] + drawn[1]:0{drawn[2]}d}}}"
)
part = st.recursive(
    st.text("ab/-.", max_size=3) | counted,
    lambda inner: st.lists(inner, min_size=2, max_size=3).map(lambda names: "{" + ",".join(names) + "}"),
    max_leaves=6,
)


@given(st.lists(part, max_size=4).map("".join))
def test_braces_stand_for_what_the_shell_makes_of_them(pattern: str) -> None:
    assert expand_braces(pattern) == list(braceexpand(pattern))


@pytest.mark.parametrize(
    "pattern",
    [
        "{",
        "a}",
        "{}",
        "{1}",
        "{1..}",
        "{5..1}",
        "{a..c}",
        "{{1..2}}",
        "{0..999999999}",
        "{0..9999}{0..9999}",
        "{-1..2}",
        "{" * 20 + "a,b" + "}" * 20,
        "{" * 100_000,
    ],
)
def test_other_braces_are_refused(pattern: str) -> None:
    with pytest.raises(UserError):
        expand_braces(pattern)


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def test_files_are_named_by_folder_by_name_or_by_braces(tmp_path: Path) -> None:
    write(tmp_path, "d/b.tar", "d/a/2.tar", "d/a/10.tar", "d/a/1.txt")

    def found(root: str) -> list[str]:
        store, files = find_files(root, extension=".tar", what="tars")
        assert all(store.size_of(file.name) == file.size_bytes for file in files)
        return [f"{store.location}/{file.name}" for file in files]

    assert found(f"{tmp_path}/d") == [f"{tmp_path}/d/{name}" for name in ("a/10.tar", "a/2.tar", "b.tar")]
    assert found(f"{tmp_path}/d/b.tar") == [f"{tmp_path}/d/b.tar"]
    assert found(f"{tmp_path}/d/a/{{2,10}}.tar") == [f"{tmp_path}/d/a/2.tar", f"{tmp_path}/d/a/10.tar"]
    assert found(f"{tmp_path}/d/{{b,a/{{2..2}}}}.tar") == [f"{tmp_path}/d/b.tar", f"{tmp_path}/d/a/2.tar"]
    assert found(f"{tmp_path}/d/{{b,a/2}}.tar") == [f"{tmp_path}/d/b.tar", f"{tmp_path}/d/a/2.tar"]
    with served(tmp_path) as url:
        assert found(f"{url}/d/a/{{2,10}}.tar") == [f"{url}/d/a/2.tar", f"{url}/d/a/10.tar"]
        with pytest.raises(UserError, match="does not list"):
            found(url)


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("no", "no tars there"),
        ("d/{1..3}.tar", r"2 of 3 tars are not there, such as .*/d/2\.tar"),
        ("d/9.tar", "1 of 1 tars are not there"),
        ("{../x,a}.tar", "no name of a file|not there"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, root: str, message: str) -> None:
    write(tmp_path, "d/1.tar")
    with pytest.raises(UserError, match=message):
        find_files(f"{tmp_path}/{root}", extension=".tar", what="tars")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00294.parquet", "train"),
        ("default/validation/0000.parquet", "val"),
        ("Test_1.parquet", "test"),
        ("train/val-1.tar", "val"),
        ("training.tar", "train"),
        ("trainer-1.tar", None),
        ("0001.tar", None),
        ("dev/x-train.tar", "val"),
    ],
)
def test_the_innermost_word_names_the_split(name: str, split: str | None) -> None:
    assert split_of_name(name) == split
