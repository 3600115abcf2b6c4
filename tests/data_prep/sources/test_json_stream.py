from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources import json_stream
from data_prep.sources.json_stream import iterate_fields
from pipeline.shards.errors import UserError


def cut(content: bytes, size: int) -> Iterator[bytes]:
    yield from (content[start : start + size] for start in range(0, len(content), size))


def read(content: bytes, *, size: int = 1 << 20) -> dict[str, Any]:
    """Put the stream together again."""
    found: dict[str, Any] = {}
    for field, number, value in iterate_fields(cut(content, size), where="a.json"):
        if number is None:
            found[field] = value
        else:
            found.setdefault(field, []).append(value)
            assert len(found[field]) == number + 1
    return found


plain_text = st.text(st.characters(codec="utf-8"))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | plain_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain_text, inner, max_size=4),
    max_leaves=20,
)


@given(
    content=st.dictionaries(plain_text, values, max_size=5),
    size=st.integers(1, 50),
    ascii_only=st.booleans(),
    indent=st.none() | st.integers(0, 3),
)
def test_any_object_comes_whole_however_its_bytes_are_cut(
    content: dict[str, Any], size: int, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(content, ensure_ascii=ascii_only, indent=indent)
    assert read(text.encode(), size=size) == content


@settings(max_examples=500)
@given(
    content=st.binary(max_size=60) | st.text(alphabet='{}[]",:01e.-ntfa\\u \n').map(str.encode), size=st.integers(1, 9)
)
def test_what_json_refuses_is_refused_and_nothing_else_escapes(content: bytes, size: int) -> None:
    try:
        pairs = json.loads(content.decode("utf-8-sig"), object_pairs_hook=list)
        fields = [field for field, _ in pairs] if content.lstrip(b"\xef\xbb\xbf \t\n\r").startswith(b"{") else None
    except (ValueError, RecursionError):
        fields = None
    if fields is None or len(set(fields)) < len(fields):
        with pytest.raises(UserError, match=r"a\.json: character "):
            read(content, size=size)
    else:
        assert list(read(content, size=size)) == fields


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short"),
        (b"[1]", "'{' wanted"),
        (b'{"a": [1, 2', "cut short"),
        (b'{"a": [1, 2]', "cut short"),
        (b'{"a": [1 2]}', "',' wanted, got '2'"),
        (b'{"a": [1,]}', "not JSON"),
        (b'{"a": 1,}', "not JSON"),
        (b'{"a": 1} x', "something follows"),
        (b'{"a": 1, "a": 2}', "stands there twice"),
        (b"{1: 2}", "name in quotes wanted"),
        (b'{"a": "\xff"}', "not UTF-8"),
        ('{"é": 1}'.encode("utf-16"), "not UTF-8"),
        (b'{"a": [' + b"[" * 100_000 + b"]" * 100_000 + b"]}", "recursion"),
        (b'{"a": ' + b"1" * 5000 + b"}", "digits"),
    ],
)
def test_each_fault_is_named(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(content)


def test_an_empty_list_differs_from_a_missing_field() -> None:
    assert read(b'{"a": [], "b": {}}') == {"a": [], "b": {}}


def test_a_value_without_end_is_refused_before_memory_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "MAX_VALUE_CHARS", 10_000)

    def endless() -> Iterator[bytes]:
        yield b'{"a": ["'
        for _ in range(1000):
            yield b"x" * 1000
        raise AssertionError("read on")

    with pytest.raises(UserError, match="more than 10,000 characters"):
        list(iterate_fields(endless(), where="a.json"))
