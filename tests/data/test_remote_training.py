"""Training from a URL, as a user types it, ends where training from the folder ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shard_server import shard_server
from synthetic_data import make_synthetic
from tiny_data import run_module


@pytest.mark.slow
def test_training_through_a_cache_of_half_the_data_gives_the_losses_of_the_folder(tmp_path: Path) -> None:
    shards = ["source.samples=400", "source.val_samples=41", "source.classes=7", "layout.shard_bytes=30000"]
    data_set = make_synthetic(tmp_path / "set", *shards)
    size_bytes = sum(shard.size_bytes for split in data_set.splits.values() for shard in split.shards)
    cache = tmp_path / "cache"
    options = ["order=window", "order.lanes=2", "order.window_chunks=2", "batch.size=16", "trainer.max_epochs=2"]
    losses = []
    with shard_server(data_set.root) as server:
        for place in ([f"data.path={data_set.root}"], [f"data.path={server.url}", f"cache.dir={cache}"]):
            run = tmp_path / f"run{len(losses)}"
            limits = [f"cache.max_bytes={size_bytes // 2}", f"run_dir={run}", "logger=none", "trainer.device=cpu"]
            ended = run_module("pipeline.train", *options, *place, *limits)
            assert ended.returncode == 0, ended.stderr
            rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            losses.append([row[name] for row in rows for name in ("train/loss", "val/loss") if name in row])
    assert len(losses[0]) >= 2
    assert losses[0] == losses[1]
    assert sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) <= size_bytes // 2
