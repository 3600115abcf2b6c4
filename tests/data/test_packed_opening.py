"""Opening a packed split costs by its shards, not by its samples; what a sidecar says is checked at its first use."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.order import slots_of
from pipeline.data.packed import PackedReader
from pipeline.data.reader import AllAtHand
from pipeline.shards.errors import DamageError
from pipeline.shards.index import read_index
from pipeline.shards.manifest import DataSet, read_data_set
from pipeline.shards.record import END_OF_ARCHIVE
from tiny_data import copy_of


def peak_bytes() -> int:
    """Return the most memory that this process has had."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_a_billion_samples_open_with_little_memory(
    synthetic: DataSet, record_property: Callable[[str, object], None]
) -> None:
    assert synthetic.packed is not None
    num_shards, samples = 40_000, 25_000
    size_bytes = samples * synthetic.packed.record_bytes + len(END_OF_ARCHIVE)
    split = synthetic.split("train")
    shard = dataclasses.replace(split.shards[0], num_samples=samples, size_bytes=size_bytes)
    huge = dataclasses.replace(split, shards=(shard,) * num_shards, num_samples=num_shards * samples)
    before_bytes, started_s = peak_bytes(), time.process_time()
    reader = PackedReader(
        dataclasses.replace(synthetic, splits={"train": huge}), "train", make_feed=lambda mapped: AllAtHand()
    )
    record_property("opening_s", time.process_time() - started_s)
    assert peak_bytes() - before_bytes < 50_000_000
    assert reader.num_samples == 10**9
    reader.close()


def test_a_sidecar_of_another_shard_is_refused_when_it_is_first_used(synthetic: DataSet, tmp_path: Path) -> None:
    data_set = read_data_set(copy_of(synthetic, tmp_path / "copy"))
    first, last = data_set.split("train").shards[0], data_set.split("train").shards[-1]
    content = bytearray(last.index_path.read_bytes())
    rows = read_index(last.index_path, num_samples=last.num_samples)
    rows_bytes = rows.nbytes
    changed = np.array(rows)
    del rows
    changed["label"][1] = data_set.num_classes
    content[-rows_bytes:] = changed.tobytes()
    last.index_path.write_bytes(content)
    reader = PackedReader(data_set, "train")
    out = torch.empty((first.num_samples, *reader.image_shape), dtype=torch.uint8)
    reader.fill(slots_of(np.arange(first.num_samples)), epoch=0, out=out)
    with pytest.raises(DamageError, match=rf"{last.index_path.name}: record 1 has label {data_set.num_classes}"):
        reader.fill(slots_of(np.array([reader.num_samples - 1])), epoch=0, out=out[:1])
    reader.close()
