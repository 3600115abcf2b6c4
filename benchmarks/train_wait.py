"""How long does training wait for data, and what does the trainer around the model cost?

    python -m benchmarks.train_wait                         # the embedded default model, 1 and 2 ranks on the CPU
    python -m benchmarks.train_wait --steps 20 --repeats 1

Real runs (`python -m pipeline.launch pipeline.train`) on synthetic 32x32 images, read from their summary.json, take
turns with a bare torch loop in this process: the same model, augmentation, objective and optimiser on one resident
batch, with as many threads as a run on one rank has. What the bare loop is faster by is the price of loading,
Lightning, metrics and recorder together.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import REPOSITORY, print_conditions, print_table, rate_text, synthetic_data, take_turns
from pipeline.build import build_module
from pipeline.build_optimizer import plan_steps
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS, TrainConfig
from pipeline.data.augment import augment_normalise, augmentation_bits
from pipeline.data.order import FullOrder
from pipeline.data.packed import PackedReader
from pipeline.shards.errors import run_entry_point
from pipeline.shards.manifest import DataSet

RESOLUTION = 32
VAL_SAMPLES = 100
BARE_WARMUP_STEPS = 5


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_wait", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--samples", type=int, default=50_000, help="training images")
    parser.add_argument("--steps", type=int, default=190, help="updates of a run")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cache", type=Path, default=Path("data"), help="folder for the data set")
    parser.add_argument("overrides", nargs="*", help="options of pipeline.train, as in model.width=512")
    options = parser.parse_args(argv)
    data_set = synthetic_data(
        options.cache / f"bench-{RESOLUTION}-{options.samples}",
        samples=options.samples,
        val_samples=VAL_SAMPLES,
        resolution=RESOLUTION,
        shard_bytes=128 << 20,
    )
    overrides = [
        f"data.path={data_set.root.resolve()}",
        f"trainer.max_steps={options.steps}",
        "trainer.max_epochs=1000",
        "trainer.device=cpu",
        "logger=none",
        *options.overrides,
    ]
    waits: dict[int, list[float]] = {ranks: [] for ranks in options.ranks}

    def real_run(ranks: int) -> float:
        summary = run_training(overrides, ranks=ranks)
        waits[ranks].append(summary["rate/data_wait_frac"])
        return float(summary["rate/images_per_s"])

    candidates: dict[str, Callable[[], float]] = {
        f"tarmac, {ranks} rank{'s' if ranks > 1 else ''}": partial(real_run, ranks) for ranks in options.ranks
    }
    candidates["bare torch loop"] = lambda: bare_loop(data_set, overrides, steps=options.steps)
    rates = take_turns(candidates, repeats=options.repeats)
    bare = statistics.median(rates["bare torch loop"])
    print_conditions(" ".join(["python -m benchmarks.train_wait", *argv]), "pytorch-lightning")
    wait_texts = [rate_text([100 * wait for wait in waits[ranks]], decimals=2) + " %" for ranks in options.ranks]
    rows = [
        [name, rate_text(values), wait_text, f"{statistics.median(values) / bare:.1%}", str(len(values))]
        for (name, values), wait_text in zip(rates.items(), [*wait_texts, ""], strict=True)
    ]
    print_table(["loop", "images/s, median (min to max)", "time waiting for data", "of the bare loop", "n"], rows)
    print("\ngoal: under 2 % of the time waiting for data")
    return 0


def run_training(overrides: list[str], *, ranks: int) -> dict[str, Any]:
    """Train in processes of its own and return the run's summary."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        command = [sys.executable, "-m", "pipeline.launch", "pipeline.train", f"run_dir={run_dir}", *overrides]
        environment = {**os.environ, "NPROC": str(ranks)}
        subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, stdout=subprocess.DEVNULL)
        summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_bytes())
    return summary


def bare_loop(data_set: DataSet, overrides: list[str], *, steps: int) -> float:
    """Return images/s of the update itself on one resident batch, after a few steps to warm up."""
    config: TrainConfig = compose("train", TRAIN_SCHEMAS, overrides)
    reader = PackedReader(data_set, config.data.train_split)
    order = FullOrder(num_samples=reader.num_samples, batch_size=int(config.batch.size), seed=config.seed)
    module = build_module(
        config,
        data_set,
        plan_steps(config, steps_per_epoch=order.steps_per_epoch, micro_batches=1),
        image_shape=reader.image_shape,
    )
    model, optimizer = module.model.train(), module.make_optimizer(module.model)
    slots = order.global_batch(epoch=0, step=0)
    images_BHWC = torch.empty((len(slots), *reader.image_shape), dtype=torch.uint8)
    labels_B = torch.from_numpy(reader.fill(slots, epoch=0, out=images_BHWC))
    positions_B = torch.from_numpy(slots.positions)
    flip, crop_padding = config.augment.flip, config.augment.crop_padding
    started_s = 0.0
    for step in range(BARE_WARMUP_STEPS + steps):
        if step == BARE_WARMUP_STEPS:
            started_s = time.perf_counter()
        bits_B = augmentation_bits(positions_B, seed=config.seed, epoch=step)
        pixels_BD = augment_normalise(
            images_BHWC, bits_B, flip=flip, crop_padding=crop_padding, mean_C=module.mean, std_C=module.std
        )
        logits_BK = model(pixels_BD)
        loss = module.objectives.training(logits_BK, labels_B).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    passed_s = time.perf_counter() - started_s
    reader.close()
    return steps * len(slots) / passed_s


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
