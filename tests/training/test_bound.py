"""What bounded a run: the rule, its measurement, and that measuring changes nothing of the run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import run_summary
from pipeline.data.loader import BatchLoader
from pipeline.data.order import FullOrder, Slots
from pipeline.data.packed import PackedReader
from pipeline.data.reader import Int64Array
from pipeline.run_text import summary_text
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.track import bounds, ceilings
from pipeline.track.ceilings import loader_images_per_s
from pipeline.track.starvation import Rates, Shares, bound_text, counter_rates, shares_of
from runs import MEASURED, assert_equal_weights, metric_rows, run_ranks, train_here
from tiny_data import prepare_pictures, write_pictures

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("run", "model", "loader", "wait", "bound"),
    [
        (3_900, 4_100, 310_000, 0.002, "compute"),
        (1_500, 4_100, 310_000, 0.01, "framework"),  # well below both
        (1_000, 4_100, 1_050, 0.74, "data"),
        (4_000, 4_100, 310_000, 0.9, "compute"),  # a GPU: the host waits there, but the device never rests
        (4_200, 4_100, 310_000, 0.0, "compute"),  # faster than measured alone
        (10, 4_100, None, 0.99, "data"),
    ],
)
def test_the_largest_share_of_the_time_names_the_bound(
    run: float, model: float, loader: float | None, wait: float, bound: str
) -> None:
    rates = Rates(run=run, model_alone=model, loader_alone=loader, data_wait_frac=wait)
    shares = shares_of(rates)
    assert shares.bound == bound
    assert shares.compute + shares.data + shares.framework == pytest.approx(1)
    assert min(shares.compute, shares.data, shares.framework) >= 0
    assert bound_text(rates).startswith(("compute, ", "data, ", "the framework, "))


def test_the_sentence_is_plain() -> None:
    rates = Rates(run=3_900, model_alone=4_100, loader_alone=310_000, data_wait_frac=0.002)
    assert bound_text(rates) == (
        "compute, 95 % of the time: the model alone does 4,100 images/s, the loader alone 310,000, the run did 3,900"
    )


def test_a_loader_that_was_not_measured_is_said_not_to_have_rested_only_where_that_is_why() -> None:
    waited = Rates(run=10, model_alone=4_100, loader_alone=None, data_wait_frac=0.99)
    assert "the loader never rested," in bound_text(waited)
    failed = Rates(run=3_900, model_alone=4_100, loader_alone=None, data_wait_frac=0.002)
    assert "the loader was not measured," in bound_text(failed)


def test_counts_become_rates_and_shares_with_their_units() -> None:
    counts = {"read_bytes": 600.0, "decode_s": 3.0, "cache_hits": 3, "cache_misses": 1, "downloaded_bytes": 90.0}
    assert counter_rates(counts, passed_s=2.0, num_threads=4) == {
        "rate/data_bytes_per_s": 300.0,
        "rate/decode_frac": 0.375,
        "rate/cache_hit_frac": 0.75,
        "rate/downloaded_bytes_per_s": 45.0,
    }
    assert counter_rates({"cache_hits": 0, "cache_misses": 0}, passed_s=1.0, num_threads=1) == {}
    assert counter_rates({}, passed_s=0.0, num_threads=1) == {}


class CountingReader(PackedReader):
    """Counts as a reader of remote JPEGs would."""

    sleep_s = 0.0
    images = 0

    def fill(self, slots: Slots, *, epoch: int, out: torch.Tensor) -> Int64Array:
        time.sleep(self.sleep_s)
        labels = super().fill(slots, epoch=epoch, out=out)
        self.images += len(slots)
        return labels

    def counters(self) -> dict[str, float]:
        return {"read_bytes": 1000.0 * self.images, "cache_hits": 3.0 * self.images, "cache_misses": self.images}


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> type[CountingReader]:
    monkeypatch.setattr("pipeline.build_data.PackedReader", CountingReader)
    return CountingReader


def test_what_a_reader_counts_is_logged_and_nothing_of_it_lost(
    synthetic: DataSet, tmp_path: Path, counting: type[CountingReader]
) -> None:
    """But for what is read for pictures and the generalisation gap, which are off here."""
    options = ["trainer.max_epochs=2", "trainer.log_every_steps=3", "track.gap=false", "track.pictures=false"]
    train_here(synthetic.root, tmp_path / "run", MEASURED, *options)
    rows = [row for row in metric_rows(tmp_path / "run") if "train/loss" in row]
    assert {row["rate/cache_hit_frac"] for row in rows if "rate/cache_hit_frac" in row} == {0.75}
    # Images since the row before, over their rate, are the seconds between rows.
    seconds = [12 * steps / row["rate/images_per_s"] for steps, row in zip([3, 3, 2, 1, 3, 3, 1], rows, strict=True)]
    read = sum(row["rate/data_bytes_per_s"] * passed_s for row, passed_s in zip(rows, seconds, strict=True))
    assert read == pytest.approx(2 * 8 * 12 * 1000)


def test_without_counters_the_bytes_are_those_of_the_batches(synthetic: DataSet, tmp_path: Path) -> None:
    train_here(synthetic.root, tmp_path / "run", MEASURED, "trainer.max_epochs=1")
    for row in metric_rows(tmp_path / "run"):
        if "train/loss" in row:
            assert row["rate/data_bytes_per_s"] == pytest.approx(row["rate/images_per_s"] * 8 * 8 * 3)


BATCHES = ["model.norm=batch", "model.dropout=0.2", "trainer.max_epochs=3", "batch.micro_size=5", "augment=flip_crop"]


def test_measuring_changes_nothing_of_the_run(
    synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, batch norm's statistics and metrics to the last bit, in the checkpoint and in the module."""
    monkeypatch.setattr(bounds, "LEAST_TRAINED_S", 0.0)
    modules: list[Any] = []
    find_bound = bounds.find_bound

    def spy(recorder: Any, module: Any, **options: Any) -> dict[str, Any]:
        before = {name: value.clone() for name, value in module.state_dict().items()}
        found = find_bound(recorder, module, **options)
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        modules.append(module)
        return found

    monkeypatch.setattr(run_summary, "find_bound", spy)
    with_it = train_here(synthetic.root, tmp_path / "with", MEASURED, *BATCHES)
    without = train_here(synthetic.root, tmp_path / "without", MEASURED, *BATCHES, "trainer.measure_bound=false")
    assert len(modules) == 1
    assert_equal_weights(tmp_path / "with", tmp_path / "without")
    assert with_it["val/loss"] == without["val/loss"]
    assert with_it["rate/model_alone_images_per_s"] > 0
    assert {"rate/compute_frac", "rate/data_frac", "rate/framework_frac"} <= with_it.keys()
    assert (
        metric_rows(tmp_path / "with")[-1]["rate/model_alone_images_per_s"] == with_it["rate/model_alone_images_per_s"]
    )
    assert f"bounded by  {with_it['bounded_by']}\n" in summary_text(with_it)
    assert "bounded_by" not in without
    assert "bounded" not in summary_text(without)


@pytest.mark.slow
def test_a_run_that_starves_says_so_without_waiting_for_its_loader_again(
    synthetic: DataSet, tmp_path: Path, counting: type[CountingReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "sleep_s", 0.2)
    monkeypatch.setattr(bounds, "LEAST_TRAINED_S", 0.0)
    summary = train_here(synthetic.root, tmp_path / "run", MEASURED, "trainer.max_epochs=1", "data.prefetch=1")
    assert summary["bounded_by"].startswith("data, ")
    assert "the loader never rested" in summary["bounded_by"]
    assert "rate/loader_alone_images_per_s" not in summary


def test_a_short_run_claims_nothing(synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "LEAST_TRAINED_S", 1e9)
    summary = train_here(synthetic.root, tmp_path / "run", MEASURED, "trainer.max_epochs=1")
    assert "nothing that could be measured" in summary["bounded_by"]
    assert not any("alone" in key for key in summary)


def test_a_machine_without_room_for_a_second_model_is_asked_for_none(
    synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "LEAST_TRAINED_S", 0.0)
    # (8 * 8 * 3 + 1) * 5 + (5 + 1) * 7 numbers.
    for free, is_measured in ((4 * 4 * 1007, True), (4 * 4 * 1007 - 1, False)):
        monkeypatch.setattr(ceilings, "available_bytes", lambda free=free: free)
        options = [MEASURED, "model.hidden=[5]", "trainer.max_epochs=1"]
        summary = train_here(synthetic.root, tmp_path / f"{free}", *options)
        assert ("rate/model_alone_images_per_s" in summary) == is_measured
        assert summary["bounded_by"].endswith("without room for a second copy of the model") != is_measured


def test_images_that_cannot_be_read_again_end_no_run(
    synthetic: DataSet, tmp_path: Path, counting: type[CountingReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = counting.fill

    def fill_while_training(self: CountingReader, slots: Slots, *, epoch: int, out: torch.Tensor) -> Int64Array:
        if epoch:
            raise UserError("the server is gone")
        return fill(self, slots, epoch=epoch, out=out)

    monkeypatch.setattr(counting, "fill", fill_while_training)
    monkeypatch.setattr(bounds, "LEAST_TRAINED_S", 0.0)
    monkeypatch.setattr(bounds, "shares_of", lambda _: Shares(compute=1.0, data=0.0, framework=0.0))
    summary = train_here(synthetic.root, tmp_path / "run", MEASURED, "trainer.max_epochs=1", "track.gap=false")
    assert "rate/model_alone_images_per_s" in summary
    assert "rate/loader_alone_images_per_s" not in summary


class SlowReader:
    """Gives a batch of any size in 20 ms, a fifth of it at a time."""

    image_shape = (1, 1, 1)
    num_samples = 40

    def __init__(self) -> None:
        self.fills = 0

    def start(self, uses: Iterator[Any]) -> None:
        pass

    def fill(self, slots: Slots, *, epoch: int, out: torch.Tensor) -> Int64Array:
        time.sleep(0.02)
        self.fills += 1
        return np.zeros(len(slots), dtype=np.int64)

    def finish(self, step: int) -> None:
        pass


def test_the_loader_alone_is_as_fast_as_its_reader_and_stops_in_time() -> None:
    """One thread, 10 images in 20 ms: at most 500 images/s, over the ends of epochs, and no longer than it may."""
    reader: Any = SlowReader()
    loader = BatchLoader(reader, FullOrder(num_samples=40, batch_size=10, seed=0), rank=0, world_size=1, prefetch=1)
    started_s = time.perf_counter()
    rate = loader_images_per_s(loader, device=CPU, max_s=0.3)
    passed_s = time.perf_counter() - started_s
    assert rate is not None
    assert 10 * (reader.fills - 3) / passed_s < rate < 500 * 1.01
    assert reader.fills > 4  # more than an epoch has


@pytest.mark.slow
def test_real_ranks_agree_on_one_sentence(synthetic: DataSet, tmp_path: Path) -> None:
    """The collectives of the measurement meet on all ranks."""
    options = [f"data.path={synthetic.root}", f"run_dir={tmp_path / 'run'}", "model=mlp", "model.hidden=[64]"]
    output = run_ranks(
        2, "pipeline.train", *options, "logger=none", "batch.size=4", "trainer.max_epochs=4", "trainer.device=cpu"
    )
    assert output.count("bounded by  ") == 1
    assert "the model alone does" in output


@pytest.mark.slow
def test_decoding_is_logged_as_a_share_of_the_cores_time(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", num_each=20, size=200, extension="jpg")
    data = prepare_pictures(tmp_path / "pictures", tmp_path / "data", "layout=encoded", "source.val_frac=0.2")
    options = ["augment=resized_crop", "batch.size=8", "trainer.max_epochs=1", "data.decode_threads=1"]
    train_here(data.root, tmp_path / "run", MEASURED, *options)
    shares = [row["rate/decode_frac"] for row in metric_rows(tmp_path / "run") if "train/loss" in row]
    assert shares
    assert all(share >= 0 for share in shares)
    assert sum(shares) > 0
