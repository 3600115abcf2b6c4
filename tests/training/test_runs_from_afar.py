"""Runs whose shards lie at a URL, or do not fit the memory that they may take: the same weights as from local files."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.compose import compose
from pipeline.evaluate import evaluate
from pipeline.evaluate_config import EVALUATE_SCHEMAS
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from runs import ONE_RANK, assert_equal_weights, train_here
from shard_server import shard_server

OPTIONS = ["order=window", "order.lanes=2", "order.window_chunks=2", "augment=flip_crop", "trainer.max_epochs=2"]


def test_a_run_from_a_web_server_ends_with_the_weights_of_a_local_one(synthetic: DataSet, tmp_path: Path) -> None:
    cache = f"cache.dir={tmp_path / 'cache'}"
    train_here(synthetic.root, tmp_path / "local", *OPTIONS)
    with shard_server(synthetic.root) as server:
        summary = train_here(server.url, tmp_path / "remote", *OPTIONS, cache)
        assert_equal_weights(tmp_path / "local", tmp_path / "remote")
        config = compose("evaluate", EVALUATE_SCHEMAS, [f"run={tmp_path / 'remote'}", "device=cpu", cache])
        assert evaluate(config, ONE_RANK)["top1_frac"] == summary["val/top1_frac"]


@pytest.mark.parametrize("order", [OPTIONS[:3], ["order=full"]])
def test_a_part_of_a_split_is_the_same_from_a_web_server(synthetic: DataSet, tmp_path: Path, order: list[str]) -> None:
    options = [*order, "data.train_samples=40", "data.subset_seed=3", "batch.size=8", "trainer.max_epochs=2"]
    train_here(synthetic.root, tmp_path / "local", *options)
    with shard_server(synthetic.root) as server:
        summary = train_here(server.url, tmp_path / "remote", *options, f"cache.dir={tmp_path / 'cache'}")
    assert_equal_weights(tmp_path / "local", tmp_path / "remote")
    assert summary["data"]["train_samples"] == 40


def test_a_cache_too_small_for_the_order_is_one_line(synthetic: DataSet, tmp_path: Path) -> None:
    size_bytes = sum(shard.size_bytes for shard in synthetic.split("train").shards)
    options = [f"cache.dir={tmp_path / 'cache'}", f"cache.max_bytes={size_bytes // 2}"]
    with shard_server(synthetic.root) as server, pytest.raises(UserError, match=r"cache\.max_bytes") as told:
        train_here(server.url, tmp_path / "run", *options)
    assert "\n" not in str(told.value)
    assert "order=window" in str(told.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("order", [["order=window", "order.chunk_samples=10", "order.lanes=2"], ["order=full"]])
def test_a_run_in_little_memory_ends_with_the_weights_of_one_in_much(
    synthetic: DataSet, tmp_path: Path, order: list[str]
) -> None:
    train_here(synthetic.root, tmp_path / "much", *order, "trainer.max_epochs=2")
    train_here(synthetic.root, tmp_path / "little", *order, "trainer.max_epochs=2", "data.memory_bytes=60000")
    assert_equal_weights(tmp_path / "much", tmp_path / "little")
