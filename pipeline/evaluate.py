"""`python -m pipeline.evaluate run=DIR`: exact metrics of a run's newest checkpoint, on any number of ranks.

Prints them and writes evaluation.json into the run folder: top1_frac, top5_frac, loss, samples.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from pathlib import Path

import torch

from pipeline.build import build_module
from pipeline.build_data import Wanted, build_eval_loader, open_splits
from pipeline.build_optimizer import plan_steps
from pipeline.compose import compose, help_text
from pipeline.config import EVALUATE_SCHEMAS, EvaluateConfig, from_stored
from pipeline.data.loader import BatchLoader
from pipeline.run_folder import CHECKPOINT_FOLDER, EVALUATION_FILE, read_stored_config
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.shards.publish import publish_json
from pipeline.trainer_config import Precision
from pipeline.training.checkpoint import load_checkpoint, newest_whole_checkpoint
from pipeline.training.module import ClassifierModule
from pipeline.world import World, join_world, leave_world

SUMMARY = """Evaluate a run: every sample of the split exactly once, the same result on any number of ranks.

  python -m pipeline.evaluate run=runs/0001
  torchrun --nproc-per-node 2 -m pipeline.evaluate run=runs/0001 data.path=data/other"""


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("evaluate", EVALUATE_SCHEMAS, summary=SUMMARY))
        return 0
    config: EvaluateConfig = compose("evaluate", EVALUATE_SCHEMAS, argv)
    try:
        world = join_world(config.device)
        logging.basicConfig(level=logging.INFO if world.rank == 0 else logging.ERROR, format="%(message)s")
        metrics = evaluate(config, world)
    finally:
        leave_world()
    if world.rank == 0:
        sys.stdout.write(json.dumps(metrics, indent=1) + "\n")
    return 0


def evaluate(config: EvaluateConfig, world: World) -> dict[str, float]:
    """Evaluate the newest whole checkpoint of a run and write evaluation.json.

    Raises:
        UserError: no run, no checkpoint, or data that does not fit the model.
    """
    folder = Path(config.run)
    stored = world.agree(lambda: from_stored(read_stored_config(folder)))
    data = dataclasses.replace(stored.data, check=config.data.check)
    if config.data.path is not None:
        data = dataclasses.replace(data, path=config.data.path, paths=None, weights=None, stream=None)
    data_set, (reader,) = open_splits(data, config.cache, [Wanted(name=config.split or stored.data.val_split)], world)
    checkpoint = world.agree(lambda: _newest_checkpoint(folder))
    module = build_module(
        stored, data_set, plan_steps(stored, steps_per_epoch=1, micro_batches=1), image_shape=reader.image_shape
    )
    state = load_checkpoint(checkpoint)["state_dict"]
    try:
        module.load_state_dict(state)
    except RuntimeError:
        trained = {name: list(value.shape) for name, value in state.items()}
        raise UserError(
            f"{data.path}: images of {reader.image_shape} in {data_set.num_classes} classes do not fit the model of"
            f" {folder}, whose first weights are {next(iter(trained.values()))}"
        ) from None
    loader = build_eval_loader(reader, slots_per_rank=config.slots_per_rank, prefetch=data.prefetch, world=world)
    try:
        metrics = metrics_of(module, loader, world, precision=stored.trainer.precision)
    finally:
        loader.close()
        reader.close()
    if world.rank == 0:
        publish_json(folder / EVALUATION_FILE, metrics)
    return metrics


@torch.inference_mode()
def metrics_of(
    module: ClassifierModule, loader: BatchLoader, world: World, *, precision: Precision
) -> dict[str, float]:
    """Return top1_frac, top5_frac, loss and samples over all of the loader's samples and all ranks."""
    device = torch.device("cuda", world.local_rank) if world.cuda else torch.device("cpu")
    was_training = module.training
    module.to(device).eval()
    module.start_evaluation()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision is Precision.bf16)
    with autocast:
        for batch in loader:
            module.add_evaluation_batch(loader.to_device(batch, device))
    module.train(was_training)
    return module.finish_evaluation()


def _newest_checkpoint(folder: Path) -> Path:
    checkpoint = newest_whole_checkpoint(folder / CHECKPOINT_FOLDER)
    if checkpoint is None:
        raise UserError(f"run={folder}: has no whole checkpoint yet; go on training with resume=true run_dir={folder}")
    return checkpoint


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
