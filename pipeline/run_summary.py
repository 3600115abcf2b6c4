"""What a trained run ends with: its last evaluation, what bounded it, what batch it should have, summary and report.

summary = end_run(config, world, run, module=module, data=data, watching=watching, parts=parts, started_s=started_s)
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

from pipeline.build_trainer import how_updated
from pipeline.config import TrainConfig
from pipeline.evaluate import metrics_of
from pipeline.run_callbacks import RunParts
from pipeline.run_cockpit import close_cockpit
from pipeline.run_data import RunData
from pipeline.run_folder import SUMMARY_FILE, Run, describe_machine
from pipeline.run_tracking import Watching
from pipeline.shards.publish import publish_json
from pipeline.track.bounds import find_bound
from pipeline.track.report.run_page import write_report_if_possible
from pipeline.training.module import ClassifierModule
from pipeline.world import World


def end_run(
    config: TrainConfig,
    world: World,
    run: Run,
    *,
    module: ClassifierModule,
    data: RunData,
    watching: Watching,
    parts: RunParts,
    started_s: float,
) -> dict[str, Any]:
    """Evaluate, measure, write summary.json and the report, and return the summary; all ranks call this together.

    Args:
        started_s: when the run began, by `time.perf_counter`.
    """
    recorder, total_steps = watching.recorder, module.plan.total_steps
    with nullcontext() if parts.average is None else parts.average.in_place(module.model):
        final = watching.samples.evaluate_last(
            module,
            lambda: metrics_of(
                module, data.val, world, precision=config.trainer.precision, by_class=config.track.pictures
            ),
            step=total_steps,
        )
    bound = find_bound(recorder, module, how=how_updated(config.trainer)) if config.trainer.measure_bound else {}
    advice = close_cockpit(watching.cockpit, config, module, recorder=recorder, metric_log=watching.metric_log)
    summary: dict[str, Any] = {
        "run_dir": str(run.folder),
        **final,
        "steps": total_steps,
        # Of this process alone: a resumed run tells the speed since it was resumed.
        "rate/images_per_s": recorder.images_per_s,
        "rate/data_wait_frac": recorder.data_wait_frac,
        **recorder.utilisation.summary(images_per_s=recorder.images_per_s),
        **parts.checkpoints.writer.means(),
        **bound,
        "batch_advice": advice,
        "wall_s": time.perf_counter() - started_s,
        "world_size": world.size,
        "parameters": sum(parameter.numel() for parameter in module.model.parameters()),
        "data": {"name": data.data_set.name, "paths": config.data.places, "train_samples": data.num_samples},
        **describe_machine(),
    }
    if world.rank == 0:
        publish_json(run.folder / SUMMARY_FILE, summary)
        if config.track.report:
            write_report_if_possible(run.folder)
    return summary
