"""`python -m pipeline.evaluate run=DIR`: exact metrics of a run's newest checkpoint, on any number of ranks.

    python -m pipeline.evaluate run=runs/0007
    python -m pipeline.evaluate run=runs/0007 tta.crops=100             # averaged over random crops of each image
    python -m pipeline.evaluate run=runs/0007 labels=real.json          # ImageNet-ReaL's several right answers too

Prints them and writes them into the run folder:

    evaluation.json             top1_frac, top5_frac, loss, mse, samples; of several labels an image map_frac too;
                                of a regression r2_frac instead of the two shares
    evaluation.classes.json     for each class its samples and top1_frac, or average_precision_frac
    evaluation.confusion.npy    int64 [label, answer], for one label an image and up to 2,000 classes

and those of test-time augmentation as evaluation-tta.*. Predictions of crops are averaged as probabilities, as in the
code of "Scaling MLPs" (arXiv 2306.13575; finetune.py of its authors' repository).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.build import build_module
from pipeline.build_data import Wanted, build_crop, build_eval_loader, open_splits
from pipeline.build_optimizer import plan_steps
from pipeline.compose import compose, help_text
from pipeline.config import from_stored
from pipeline.data.loader import Batch, BatchLoader
from pipeline.evaluate_config import EVALUATE_SCHEMAS, EvaluateConfig
from pipeline.run_folder import CHECKPOINT_FOLDER, EVALUATION_FILE, TTA_FILE
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.shards.index import read_index
from pipeline.shards.manifest import Split
from pipeline.shards.publish import publish, publish_json
from pipeline.track.run_reading import read_config
from pipeline.trained import data_at
from pipeline.trainer_config import Precision
from pipeline.training.checkpoint import load_checkpoint, newest_whole_checkpoint
from pipeline.training.class_report import ClassReport
from pipeline.training.ema import evaluated_weights
from pipeline.training.module import ClassifierModule
from pipeline.training.scores import outputs_of, scores_of
from pipeline.training.several_answers import AnswerSums, answer_table, read_answers
from pipeline.world import World, join_world, leave_world

SUMMARY = """Evaluate a run: every sample of the split exactly once, the same result on any number of ranks.

  python -m pipeline.evaluate run=runs/0001
  python -m pipeline.evaluate run=runs/0001 tta.crops=100
  torchrun --nproc-per-node 2 -m pipeline.evaluate run=runs/0001 data.path=data/other"""

# Of the files beside evaluation.json.
CLASSES_SUFFIX, CONFUSION_SUFFIX = ".classes.json", ".confusion.npy"
# Outputs of the model for a batch.
Evaluated = tuple[torch.Tensor, Batch]


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


def evaluate(config: EvaluateConfig, world: World) -> dict[str, Any]:
    """Evaluate the newest whole checkpoint of a run and write evaluation.json.

    Raises:
        UserError: no run, no checkpoint, data that does not fit the model, or labels that do not fit the data.
    """
    folder = Path(config.run)
    stored = world.agree(lambda: from_stored(read_config(folder)))
    data = data_at(stored.data, config.data.path, check=config.data.check)
    crops = config.tta.crops
    if crops is not None:
        if data.stream is not None:
            raise UserError("tta.crops: a stream shows each image once; data.path= names a data set")
        stored = dataclasses.replace(stored, augment=config.tta.augmentation(), seed=config.tta.seed)
    wanted = Wanted(name=config.split or stored.data.val_split)
    if crops is not None:
        wanted = dataclasses.replace(wanted, crop=build_crop(stored.augment, seed=stored.seed))
    data_set, (reader,) = open_splits(data, config.cache, [wanted], world)
    checkpoint = world.agree(lambda: _newest_checkpoint(folder))
    module = build_module(
        stored, data_set, plan_steps(stored, steps_per_epoch=1, micro_batches=1), image_shape=reader.image_shape
    )
    state = evaluated_weights(load_checkpoint(checkpoint))
    try:
        module.load_state_dict(state)
    except RuntimeError:
        trained = {name: list(value.shape) for name, value in state.items()}
        raise UserError(
            f"{data.path}: images of {reader.image_shape} in {data_set.num_classes} classes do not fit the model of"
            f" {folder}, whose first weights are {next(iter(trained.values()))}"
        ) from None
    answers = None
    if config.labels is not None:
        table = world.agree(lambda: _answers_of(Path(str(config.labels)), reader.split, data_set.class_ids))
        answers = AnswerSums(table, _device_of(world))
    loader = build_eval_loader(
        reader, slots_per_rank=config.slots_per_rank, prefetch=data.prefetch, world=world, times=crops or 1
    )
    try:
        metrics: dict[str, Any] = metrics_of(
            module,
            loader,
            world,
            precision=stored.trainer.precision,
            look=None if crops is None else lambda: averaged(module, loader, crops, world),
            answers=answers,
            by_class=True,
        )
    finally:
        loader.close()
        reader.close()
    # What was evaluated, for whoever finds the file.
    metrics |= {"data": data_set.name, "split": wanted.name}
    if crops is not None:
        metrics["tta_crops"] = crops
    if world.rank == 0:
        path = Path(config.out) if config.out else folder / (EVALUATION_FILE if crops is None else TTA_FILE)
        publish_json(path, metrics)
        _publish_report(module.class_report, path, data_set.classes)
    return metrics


@torch.no_grad()  # not inference mode, in which a sharded model cannot be moved, nor trained on after it
def metrics_of(
    module: ClassifierModule,
    loader: BatchLoader,
    world: World,
    *,
    precision: Precision,
    look: Callable[[], Iterator[Evaluated]] | None = None,
    answers: AnswerSums | None = None,
    by_class: bool = False,
) -> dict[str, float]:
    """Return top1_frac, top5_frac, loss and samples over all of the loader's samples and all ranks.

    Args:
        look: yields the outputs for each batch; None: those of the model for its images as they are.
        answers: counts right answers of other labels too.
        by_class: asks for the module's `class_report` too.
    """
    device = _device_of(world)
    was_training = module.training
    module.to(device).eval()
    module.start_evaluation(by_class=by_class)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision is Precision.bf16)
    with autocast:
        for outputs_BK, batch in (look or (lambda: plain(module, loader, world)))():
            module.add_evaluation_outputs(outputs_BK, batch)
            if answers is not None:
                answers.add(outputs_BK, batch.sample_ids, batch.weights_B)
    module.train(was_training)
    metrics = module.finish_evaluation()
    return metrics if answers is None else {**metrics, **answers.read()}


def plain(module: ClassifierModule, loader: BatchLoader, world: World) -> Iterator[Evaluated]:
    """Yield each batch with the model's outputs for its images as they are."""
    device = _device_of(world)
    for batch in loader:
        batch = loader.to_device(batch, device)
        yield module.evaluation_logits(batch), batch


def averaged(module: ClassifierModule, loader: BatchLoader, times: int, world: World) -> Iterator[Evaluated]:
    """Yield each batch with outputs that say what the model says on average of `times` augmented looks at its images.

    The loader shows each batch so often in a row, at other positions, which the augmentation is a function of.
    """
    device = _device_of(world)
    scores = module.objectives.scores
    sums_BK: torch.Tensor | None = None
    for number, batch in enumerate(loader, start=1):
        batch = loader.to_device(batch, device)
        pixels_BD, _ = module.inputs_of(batch)
        looked_BK = scores_of(module.model(pixels_BD), scores)
        sums_BK = looked_BK if sums_BK is None else sums_BK + looked_BK
        if number % times == 0:
            yield outputs_of(sums_BK / times, scores), batch
            sums_BK = None


def _device_of(world: World) -> torch.device:
    return torch.device("cuda", world.local_rank) if world.cuda else torch.device("cpu")


def _answers_of(path: Path, split: Split, class_ids: tuple[str, ...]) -> Any:
    """Return the table of right answers of a split's samples."""
    keys: list[str] = []
    for shard in split.shards:
        if not shard.index_path.is_file():
            raise UserError("labels: of a data set on this machine; data.path= names one")
        rows = read_index(shard.index_path, num_samples=shard.num_samples)
        keys += [key.decode("utf-8", "replace") for key in rows["source_key"].tolist()]
    return answer_table(read_answers(path), keys, class_ids=class_ids)


def _publish_report(report: ClassReport | None, path: Path, classes: tuple[str, ...]) -> None:
    """Write what was found of each class beside the metrics."""
    if report is None:
        return
    publish_json(path.with_suffix(CLASSES_SUFFIX), report.rows(classes))
    if report.confusion is not None:
        with publish(path.with_suffix(CONFUSION_SUFFIX)) as stream:
            np.save(stream, report.confusion.numpy(), allow_pickle=False)


def _newest_checkpoint(folder: Path) -> Path:
    checkpoint = newest_whole_checkpoint(folder / CHECKPOINT_FOLDER)
    if checkpoint is None:
        raise UserError(f"run={folder}: has no whole checkpoint yet; go on training with resume=true run_dir={folder}")
    return checkpoint


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
