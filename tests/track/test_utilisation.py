"""FLOP/s and their share of the peak: counted as torch counts them, against what was stated, known or measured."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.model.mlp import mlp
from pipeline.run_text import summary_text
from pipeline.shards.errors import UserError
from pipeline.shards.manifest import DataSet
from pipeline.track import utilisation
from pipeline.track.utilisation import Utilisation, known_peak, measured_peak
from runs import SMALL, metric_rows, run_ranks, train_here

# 8x8 pixels of 3 channels, 7 classes.
HIDDEN = "model.hidden=[16,32]"
OPTIONS = [HIDDEN, "trainer.max_epochs=1", "trainer.log_every_steps=2"]
CPU = torch.device("cpu")


def flop_of_an_image() -> int:
    """What torch's own counter sees in a forward and a backward pass."""
    model = mlp(in_features=192, widths=[16, 32], num_classes=7)
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.randn(1, 192)).sum().backward()
    return int(counter.get_total_flops())


def test_rows_and_summary_tell_flops_and_their_share_of_the_stated_peak(synthetic: DataSet, tmp_path: Path) -> None:
    summary = train_here(synthetic.root, tmp_path / "run", *OPTIONS, "track.peak_flops_per_s=2e9")
    rows = [row for row in metric_rows(tmp_path / "run") if "rate/images_per_s" in row]
    assert len(rows) == 4
    for row in [*rows, summary]:
        assert row["rate/flops_per_s"] == pytest.approx(row["rate/images_per_s"] * flop_of_an_image(), rel=1e-9)
        assert row["rate/mfu_frac"] == pytest.approx(row["rate/flops_per_s"] / 2e9, rel=1e-9)
    assert not any(key.startswith("gpu/") for row in rows for key in row)
    assert summary["peak_flops_per_s"] == 2e9
    assert "track.peak_flops_per_s" in summary["peak_source"]
    assert "of the peak of 2 GFLOP/s (stated: track.peak_flops_per_s)" in summary_text(summary)


def test_an_unknown_peak_is_measured_once_the_run_has_trained_for_some_time(
    synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utilisation, "MEASURE_AFTER_S", 0.0)
    monkeypatch.setattr(utilisation, "CPU_SIDE", 64)
    monkeypatch.setattr(utilisation, "MEASURE_S", 0.0)
    summary = train_here(synthetic.root, tmp_path / "run", *OPTIONS)
    rows = [row for row in metric_rows(tmp_path / "run") if "rate/images_per_s" in row]
    assert ["rate/mfu_frac" in row for row in rows] == [False, True, True, True]
    peaks = {round(row["rate/flops_per_s"] / row["rate/mfu_frac"]) for row in rows[1:]}
    assert peaks == {round(summary["peak_flops_per_s"])}
    assert summary["peak_source"].startswith("measured: 64 x 64 fp32 products on 1 thread")


def test_a_run_that_is_over_before_has_no_peak_and_says_none(
    synthetic: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utilisation, "MEASURE_AFTER_S", math.inf)
    summary = train_here(synthetic.root, tmp_path / "run", *OPTIONS)
    assert not summary.keys() & {"rate/mfu_frac", "peak_flops_per_s", "peak_source"}
    assert "of the peak" not in summary_text(summary)
    assert all("rate/mfu_frac" not in row for row in metric_rows(tmp_path / "run"))


def test_a_device_without_room_for_a_measurement_is_asked_once_and_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(**_: object) -> utilisation.Peak:
        asked.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(utilisation, "measured_peak", refuse)
    follower = Utilisation(count_flop=lambda: 1000, stated_flops_per_s=None, bf16=False)
    follower.start(CPU)
    for _ in range(2):
        follower.measure_when_due(1e9)
    peak, use = follower.of_this_rank()
    row = follower.row(images_per_s=10.0, peak_flops_per_s=peak, gpu_use=use)
    assert (len(asked), row) == (1, {"rate/flops_per_s": 10_000.0})


@pytest.mark.parametrize(("bf16", "form"), [(False, "fp32"), (True, "bf16")])
def test_a_measured_peak_says_what_it_was_measured_on(monkeypatch: pytest.MonkeyPatch, bf16: bool, form: str) -> None:
    monkeypatch.setattr(utilisation, "CPU_SIDE", 128)
    monkeypatch.setattr(utilisation, "MEASURE_S", 0.0)
    peak = measured_peak(device=CPU, bf16=bf16)
    assert peak.flops_per_s > 0
    num = torch.get_num_threads()
    assert peak.source == f"measured: 128 x 128 {form} products on {num} thread{'s' * (num > 1)}"


@pytest.mark.parametrize(
    ("name", "bf16", "flops_per_s"),
    [
        ("NVIDIA A100-SXM4-80GB", True, 312e12),
        ("NVIDIA A100-SXM4-80GB", False, 156e12),
        ("NVIDIA H100 80GB HBM3", True, 989.4e12),
        ("NVIDIA H100 PCIe", True, 756e12),
        ("NVIDIA GH200 480GB", True, 989.4e12),
        ("NVIDIA L40S", True, 362e12),
        ("NVIDIA L4", True, 121e12),
        ("NVIDIA GeForce RTX 4090", False, 82.6e12),
    ],
)
def test_a_gpu_is_known_by_its_name(name: str, bf16: bool, flops_per_s: float) -> None:
    peak = known_peak(device_name=name, bf16=bf16)
    assert peak is not None
    assert peak.flops_per_s == flops_per_s


@pytest.mark.parametrize(
    "name", ["NVIDIA A10G", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA L40", "AMD Instinct MI300X"]
)
def test_another_gpu_or_a_part_of_one_is_not_taken_for_it(name: str) -> None:
    assert known_peak(device_name=name, bf16=True) is None


def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Utilisation:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    follower = Utilisation(count_flop=lambda: 1000, stated_flops_per_s=None, bf16=True)
    follower.start(torch.device("cuda", 0))
    return follower


def test_a_gpus_use_is_the_mean_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    follower = on_a_gpu(monkeypatch)
    monkeypatch.setattr(torch.cuda, "utilization", lambda _: 40)
    peak, use = follower.of_this_rank()
    assert (peak, use) == (989.4e12, 0.4)
    row = follower.row(images_per_s=1e9, peak_flops_per_s=2 * peak, gpu_use=use + 0.8, world_size=2)
    assert row == pytest.approx({"rate/flops_per_s": 1e12, "rate/mfu_frac": 1e12 / (2 * 989.4e12), "gpu/use_frac": 0.6})


def test_a_driver_that_does_not_tell_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(_: object) -> int:
        asked.append(1)
        raise ModuleNotFoundError("pynvml")

    follower = on_a_gpu(monkeypatch)
    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    assert all(math.isnan(follower.of_this_rank()[1]) for _ in range(3))
    assert len(asked) == 1
    assert "gpu/use_frac" not in follower.row(images_per_s=1.0, peak_flops_per_s=1.0, gpu_use=math.nan)


def test_a_peak_of_nothing_is_refused(synthetic: DataSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="peak_flops_per_s=0"):
        train_here(synthetic.root, tmp_path / "run", "track.peak_flops_per_s=0")


@pytest.mark.slow
def test_the_peak_of_ranks_is_their_sum(synthetic: DataSet, tmp_path: Path) -> None:
    options = [*SMALL, *OPTIONS, f"data.path={synthetic.root}", f"run_dir={tmp_path / 'run'}"]
    run_ranks(2, "pipeline.train", *options, "track.peak_flops_per_s=1e9", "trainer.strategy=fsdp")
    for row in metric_rows(tmp_path / "run"):
        if "rate/images_per_s" in row:
            assert row["rate/flops_per_s"] == pytest.approx(row["rate/images_per_s"] * flop_of_an_image(), rel=1e-9)
            assert row["rate/mfu_frac"] == pytest.approx(row["rate/flops_per_s"] / 2e9, rel=1e-9)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["peak_flops_per_s"] == 2e9
