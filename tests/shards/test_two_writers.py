"""One target, two writers at the same time: a lost job that is not dead yet, and the one that replaces it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.shards.publish import publish, publish_bytes


def test_a_writer_that_comes_in_between_changes_no_byte_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with publish(path) as stream:
        stream.write(b"1" * 100_000)
        publish_bytes(path, b"2" * 50)
        assert path.read_bytes() == b"2" * 50
        stream.write(b"1" * 100_000)
    assert path.read_bytes() == b"1" * 200_000
    assert [found.name for found in tmp_path.iterdir()] == ["a.bin"]


def test_a_reader_among_many_writers_sees_whole_files_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    contents = [bytes([number]) * 70_000 for number in range(8)]
    publish_bytes(path, contents[0])
    with ThreadPoolExecutor(8) as pool:
        writers = [pool.submit(publish_bytes, path, content) for content in contents * 5]
        while not all(writer.done() for writer in writers):
            assert path.read_bytes() in contents
        for writer in writers:
            writer.result()
    assert [found.name for found in tmp_path.iterdir()] == ["a.bin"]
