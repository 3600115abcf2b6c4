"""Training from a stream, as a user types it: equal steps on unequal shards, one line when a shard cannot be had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import webdataset

from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS
from pipeline.inspect import inspect
from pipeline.inspect_config import INSPECT_SCHEMAS
from pipeline.plan import make_plan
from pipeline.plan_config import PLAN_SCHEMAS
from pipeline.shards.errors import UserError
from pipeline.train import quieten_libraries, train
from runs import ONE_RANK, SMALL, run_ranks
from tiny_data import ROOT, random_pixels, save_pixels

NUM_VAL = 41


def write_tars(folder: Path, *, counts: list[int]) -> str:
    folder.mkdir()
    number = 0
    for shard, count in enumerate(counts):
        with webdataset.TarWriter(str(folder / f"{shard:03d}.tar")) as writer:
            for _ in range(count):
                save_pixels(folder / "image.png", random_pixels(number, height=9, width=11))
                image = (folder / "image.png").read_bytes()
                writer.write({"__key__": f"{number:06d}", "png": image, "cls": number % 3})
                number += 1
    return f"{folder}/{{000..{len(counts) - 1:03d}}}.tar"


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("stream")
    return [
        f'data.stream="{write_tars(folder / "train", counts=[1, 40, 7])}"',
        f'data.val_stream="{write_tars(folder / "val", counts=[30, NUM_VAL - 30])}"',
        f"data.val_stream_samples={NUM_VAL}",
        "data.stream_samples_per_epoch=100",
        "data.stream_classes=3",
        "data.resolution=8",
        *SMALL,
    ]


def test_a_stream_trains_and_evaluates(options: list[str], tmp_path: Path) -> None:
    overrides = [*options, f"run_dir={tmp_path / 'run'}", "trainer.max_epochs=2"]
    quieten_libraries()
    summary = train(compose("train", TRAIN_SCHEMAS, overrides), ONE_RANK)
    assert summary["steps"] == 2 * (100 // 12)
    assert summary["val/samples"] == NUM_VAL


@pytest.mark.parametrize(
    "missing",
    ["stream_classes", "stream_samples_per_epoch", "val_stream", "val_stream_samples"],
)
def test_what_a_stream_needs_is_asked_for(options: list[str], missing: str) -> None:
    given = [option for option in options if not option.startswith(f"data.{missing}=")]
    with pytest.raises(UserError, match=f"data.stream needs data.{missing} too"):
        compose("train", TRAIN_SCHEMAS, given)


def test_a_batch_of_a_stream_cannot_be_seen_again_nor_planned(options: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    quieten_libraries()
    train(compose("train", TRAIN_SCHEMAS, [*options, f"run_dir={run_dir}", "trainer.max_steps=1"]), ONE_RANK)
    with pytest.raises(UserError, match=r"data\.stream: what a stream gave cannot be read again"):
        inspect(compose("inspect", INSPECT_SCHEMAS, [f"run={run_dir}", "step=1"]))
    with pytest.raises(UserError, match=r"data\.stream: nothing is known of a stream before it is read"):
        make_plan(compose("plan", PLAN_SCHEMAS, [option for option in options if option.startswith("data.")]))


@pytest.mark.slow
def test_two_ranks_take_equal_steps_and_evaluation_is_that_of_one(options: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_ranks(2, "pipeline.train", *options, f"run_dir={run_dir}", "log_sample_ids=true", "trainer.max_epochs=2")
    for rank in range(2):
        rows = [json.loads(line) for line in (run_dir / f"sample_ids.rank{rank}.jsonl").read_text().splitlines()]
        assert [(row["step"], len(row["ids"])) for row in rows] == [(step, 6) for step in range(1, 17)]
    results = []
    for num_ranks in (1, 3):
        run_ranks(num_ranks, "pipeline.evaluate", f"run={run_dir}", "device=cpu", "slots_per_rank=4")
        results.append(json.loads((run_dir / "evaluation.json").read_text()))
    assert results[0]["samples"] == NUM_VAL
    assert results[0]["top1_frac"] == results[1]["top1_frac"]


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_shard_that_cannot_be_had_is_one_line_and_exit_code_2_whichever_rank_it_struck(
    options: list[str], tmp_path: Path, num_ranks: int
) -> None:
    good = options[0].partition('"')[2].replace("{000..002}", "001").rstrip('"')
    bad = [f'data.stream=[{good},"pipe:cat {good}; exit 7"]', *options[1:], f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.launch", "pipeline.train", *bad],
        cwd=ROOT,
        env={**os.environ, "NPROC": str(num_ranks)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if "lacks" not in line]
    # Both ranks may have come to it at once.
    assert {*errors} == {f"error: pipe:cat {good}; exit 7: the command failed (exit code 7)"}
