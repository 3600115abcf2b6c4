"""The generalisation gap of real runs against evaluations by plain torch."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from forked import exit_codes, fork_ranks
from pipeline.data.order import FullOrder
from pipeline.run_text import summary_text
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.track.gap import GeneralisationGap, gap_of
from plain_evaluation import evaluate_plainly
from runs import SMALL, metric_rows, train_here
from shard_server import shard_server
from synthetic_data import TRAIN_SAMPLES, VAL_SAMPLES, make_synthetic

BATCH = 12
# Everything that makes training's own metrics another thing than the gap's.
NOISY = [
    *("augment=flip_crop", "augment.mixup_alpha=0.4", "model.dropout=0.3", "objective.label_smoothing=0.2"),
    *("track.gap=true", "track.pictures=false"),
]
PLAIN = ["augment=none", "track.gap=true", "track.pictures=false"]


def expected_gap(data: DataSet, run_dir: Path, *, num_samples: int) -> dict[str, float]:
    """The gap of a run's newest weights, on the places that training's order, seed 0, has first."""
    order = FullOrder(num_samples=TRAIN_SAMPLES, batch_size=BATCH, seed=0)
    ids = order.slots_at(epoch=0, positions=np.arange(num_samples)).sample_ids
    train, val = evaluate_plainly(data, "train", run_dir, ids=ids), evaluate_plainly(data, "val", run_dir)
    shares = [(train.top1_frac, num_samples), (val.top1_frac, VAL_SAMPLES)]
    return {
        "gap/loss": val.loss - train.loss,
        "gap/top1_frac": train.top1_frac - val.top1_frac,
        "gap/top1_error_frac": math.sqrt(sum(share * (1 - share) / num for share, num in shares)),
        "gap/train_loss": train.loss,
        "gap/train_top1_frac": train.top1_frac,
    }


def gap_rows(run_dir: Path) -> list[dict[str, float]]:
    return [row for row in metric_rows(run_dir) if "gap/loss" in row]


@pytest.mark.parametrize("options", [NOISY, [*NOISY, "ema.decay=0.9"]], ids=["weights", "average"])
def test_it_is_that_of_the_evaluated_weights_without_augmentation_mixup_smoothing_and_dropout(
    synthetic: DataSet, tmp_path: Path, options: list[str]
) -> None:
    summary = train_here(synthetic.root, tmp_path / "run", *options, "trainer.max_epochs=3")
    # After the last step the sample is as large as the validation split.
    expected = expected_gap(synthetic, tmp_path / "run", num_samples=VAL_SAMPLES)
    rows = gap_rows(tmp_path / "run")
    assert [row["step"] for row in rows] == [8, 16, 24]
    for name, value in expected.items():
        assert rows[-1][name] == pytest.approx(value, abs=1e-5), name
        assert summary[name] == rows[-1][name]


@pytest.mark.parametrize("decay", ["null", "0.9"])
def test_within_a_run_the_sample_is_a_tenth_of_the_validation_split(
    synthetic: DataSet, tmp_path: Path, decay: str
) -> None:
    options = [*PLAIN, "schedule=constant", f"ema.decay={decay}"]
    train_here(synthetic.root, tmp_path / "short", *options, "trainer.max_epochs=1")
    train_here(synthetic.root, tmp_path / "long", *options, "trainer.max_epochs=2")
    # The first epochs are equal, so the short run's last weights are those that the long one evaluated in between.
    expected = expected_gap(synthetic, tmp_path / "short", num_samples=math.ceil(VAL_SAMPLES / 10))
    row = gap_rows(tmp_path / "long")[0]
    assert row["step"] == 8
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, abs=1e-5), name


def test_a_model_that_learns_its_training_images_by_heart_has_a_large_gap(synthetic: DataSet, tmp_path: Path) -> None:
    options = [*PLAIN, "trainer.max_epochs=15", "schedule=constant"]
    summary = train_here(synthetic.root, tmp_path / "run", *options)
    rows = gap_rows(tmp_path / "run")
    assert rows[-1]["gap/loss"] > 0
    assert f"loss {summary['gap/loss']:.4f} lower" in summary_text(summary)
    assert rows[-1]["gap/train_loss"] < rows[0]["gap/train_loss"] / 2


def test_measuring_it_changes_nothing_else(synthetic: DataSet, tmp_path: Path) -> None:
    rows = {}
    for gap in ("true", "false"):
        train_here(synthetic.root, tmp_path / gap, *NOISY[:-2], "trainer.max_epochs=2", f"track.gap={gap}")
        rows[gap] = [
            {name: value for name, value in row.items() if name.startswith(("train/", "val/"))}
            for row in metric_rows(tmp_path / gap)
        ]
    assert not gap_rows(tmp_path / "false")
    assert [row for row in rows["true"] if row] == [row for row in rows["false"] if row]


def test_a_sample_that_cannot_be_read_is_told_once_and_the_run_goes_on(
    synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read(_: GeneralisationGap, num_samples: int) -> None:
        raise UserError(f"none of {num_samples} can be had")

    monkeypatch.setattr(GeneralisationGap, "_read", read)
    summary = train_here(synthetic.root, tmp_path / "run", *PLAIN, "trainer.max_epochs=2")
    assert "gap/loss" not in summary
    assert "val/loss" in summary
    assert sum("generalisation gap is left out" in record.message for record in caplog.records) == 1


def test_the_standard_error_is_that_of_repeated_draws() -> None:
    rng = np.random.default_rng(0)
    train, val = (rng.binomial(num, share, 20_000) / num for num, share in ((200, 0.9), (400, 0.7)))
    found = gap_of({"loss": 1.0, "top1_frac": 0.9, "samples": 200}, {"loss": 1.5, "top1_frac": 0.7, "samples": 400})
    assert found["gap/top1_error_frac"] == pytest.approx((train - val).std(), rel=0.03)
    assert (found["gap/loss"], found["gap/top1_frac"]) == (0.5, pytest.approx(0.2))


@pytest.mark.slow
@pytest.mark.parametrize(("num_ranks", "strategy"), [(2, "ddp"), (3, "ddp"), (2, "fsdp")])
def test_ranks_measure_the_same(synthetic: DataSet, tmp_path: Path, num_ranks: int, strategy: str) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "log"
    options = [f"data.path={synthetic.root}", f"run_dir={run_dir}", *SMALL, *PLAIN, "trainer.max_epochs=2"]
    options.append(f"trainer.strategy={strategy}")
    assert exit_codes(fork_ranks(num_ranks, log, *options)) == [0] * num_ranks, log.read_text()
    expected = expected_gap(synthetic, run_dir, num_samples=VAL_SAMPLES)
    rows = gap_rows(run_dir)
    assert [row["step"] for row in rows] == [8, 16]
    for name, value in expected.items():
        assert rows[-1][name] == pytest.approx(value, abs=1e-5), name
    assert json.loads((run_dir / "summary.json").read_text())["gap/loss"] == rows[-1]["gap/loss"]


@pytest.mark.slow
def test_data_larger_than_memory_or_at_a_url_has_the_gap_of_the_folder(tmp_path: Path) -> None:
    shards = ["source.samples=400", "source.val_samples=41", "source.classes=7", "layout.shard_bytes=30000"]
    data = make_synthetic(tmp_path / "set", *shards)
    size_bytes = sum(shard.size_bytes for split in data.splits.values() for shard in split.shards)
    options = [
        *NOISY,
        "order=window",
        "order.lanes=2",
        "order.window_chunks=2",
        "batch.size=16",
        "trainer.max_epochs=3",
    ]
    train_here(data.root, tmp_path / "folder", *options)
    train_here(data.root, tmp_path / "paged", *options, "data.memory_bytes=60000")
    with shard_server(data.root) as server:
        cache = [f"cache.dir={tmp_path / 'cache'}", f"cache.max_bytes={size_bytes // 2}"]
        train_here(server.url, tmp_path / "url", *options, *cache)
    assert len(gap_rows(tmp_path / "folder")) == 3
    for run in ("paged", "url"):
        assert gap_rows(tmp_path / run) == gap_rows(tmp_path / "folder")
