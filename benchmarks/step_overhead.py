"""What does a step cost beyond the model's own, with all metrics on? Goal: at most 5 % of a step of 10 ms.

    python -m benchmarks.step_overhead                              # a step of about 10 ms on one core
    python -m benchmarks.step_overhead augment.mixup_alpha=0.8      # any option of pipeline.train
    python -m benchmarks.step_overhead --log-every 1                # reads the metrics after each step

Taking turns in one process, with as many threads each:

    bare                the least that the same training can be: augmentation, model, objective, backward, optimiser on
                        one resident batch
    bare + metrics      the same, and the sums that training keeps, read as often as training reads them
    tarmac              pipeline.train: loader, Lightning, callbacks and metrics; evaluation and checkpoints, which come
                        between epochs, left out

How a step's time is told: benchmarks/step_times.py; the time that passed is the median over steps.
"""

from __future__ import annotations

import statistics
import sys

import torch

from benchmarks.measure import print_conditions, print_table, rate_text, take_turns
from benchmarks.step_times import StepClock, StepTimes, overrides_of, prepare_steps, step_parser, train_step_times
from pipeline.build import build_module
from pipeline.build_optimizer import plan_steps
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS, TrainConfig
from pipeline.data.loader import Batch
from pipeline.data.order import FullOrder
from pipeline.data.packed import PackedReader
from pipeline.shards.errors import run_entry_point
from pipeline.shards.manifest import DataSet
from pipeline.training.metrics import MetricSums
from pipeline.training.module import ClassifierModule


def main(argv: list[str]) -> int:
    parser = step_parser("step_overhead", __doc__, steps=400)
    parser.add_argument("--log-every", type=int, default=50, help="steps between two reads of the metrics")
    options = parser.parse_args(argv)
    data_set = prepare_steps(options)
    overrides = [f"trainer.log_every_steps={options.log_every}", "logger=none", *overrides_of(options, data_set)]
    candidates = {
        "bare": lambda: bare_step_times(data_set, overrides, read_every=None),
        "bare + metrics": lambda: bare_step_times(data_set, overrides, read_every=options.log_every),
        "tarmac": lambda: train_step_times(overrides, average=statistics.median),
    }
    times = take_turns(candidates, repeats=options.repeats)
    print_conditions(" ".join(["python -m benchmarks.step_overhead", *argv]), "pytorch-lightning")
    rows = []
    for name, found in times.items():
        cells = [name]
        for field in ("passed_ms", "thread_ms"):
            values, bare = ([getattr(one, field) for one in times[which]] for which in (name, "bare"))
            cells += [rate_text(values, decimals=2), f"{statistics.median(values) / statistics.median(bare) - 1:+.1%}"]
        rows.append([*cells, str(len(found))])
    header = ["loop", "ms a step, median (min to max)", "over bare", "ms of the thread that trains", "over bare", "n"]
    print_table(header, rows)
    print("\ngoal: at most +5 % of a step of 10 ms")
    return 0


def bare_step_times(data_set: DataSet, overrides: list[str], *, read_every: int | None) -> StepTimes:
    """Update on one resident batch, with metrics where they are read."""
    config: TrainConfig = compose("train", TRAIN_SCHEMAS, overrides)
    reader = PackedReader(data_set, config.data.train_split)
    order = FullOrder(num_samples=reader.num_samples, batch_size=int(config.batch.size), seed=config.seed)
    plan = plan_steps(config, steps_per_epoch=order.steps_per_epoch, micro_batches=1)
    module = build_module(config, data_set, plan, image_shape=reader.image_shape)
    batch = _resident_batch(reader, order)
    reader.close()
    model, optimizer = module.model.train(), module.make_optimizer(module.model)
    sums = None if read_every is None else MetricSums("cpu")
    clock = StepClock()
    for step in range(plan.total_steps):
        clock.note(epoch=0)
        _update(module, model, optimizer, batch, sums)
        if sums is not None and read_every is not None and step % read_every == 0:
            sums.read()
    return clock.step_times(average=statistics.median)


def _update(
    module: ClassifierModule,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    sums: MetricSums | None,
) -> None:
    pixels_BD, own_B = module.inputs_of(batch)
    logits_BK = model(pixels_BD)
    losses_B = module.objectives.training(logits_BK, batch.labels_B, own_B=own_B)
    optimizer.zero_grad()
    losses_B.mean().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    if sums is not None:
        sums.add(logits_BK.detach(), batch.labels_B, losses_B.detach(), batch.weights_B)


def _resident_batch(reader: PackedReader, order: FullOrder) -> Batch:
    slots = order.global_batch(epoch=0, step=0)
    images_BHWC = torch.empty((len(slots), *reader.image_shape), dtype=torch.uint8)
    labels = reader.fill(slots, epoch=0, out=images_BHWC)
    return Batch(
        images_BHWC=images_BHWC,
        labels_B=torch.from_numpy(labels),
        weights_B=torch.from_numpy(slots.weights),
        positions_B=torch.from_numpy(slots.positions),
        sample_ids=slots.sample_ids,
        epoch=0,
        step=0,
        micro=0,
        global_weight=float(len(slots)),
        buffer=0,
    )


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
