"""Engines map shard tasks over workers; whichever one runs a task, its bytes are the same.

    for task, receipt in run_tasks(tasks, engine=config.engine, on_progress=bar.update):
        ...

`local` is processes of this machine, `ray` those of a Ray cluster, `slurm` a job array. ray and submitit are
imported only where they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

from data_prep.config import EngineConfig, RayEngineConfig, SlurmEngineConfig
from data_prep.engines.local import Finished, OnProgress, run_local
from data_prep.shard_task import ShardTask
from pipeline.shards.errors import UserError


def run_tasks(tasks: list[ShardTask], *, engine: EngineConfig, on_progress: OnProgress) -> Iterator[Finished]:
    """Build every task on the engine's workers and yield each with its receipt as they are finished, in any order.

    Args:
        tasks: of one config; they are yielded as they are given.
        on_progress: called with (items, bytes) newly done; negative for what was lost with a killed worker.

    Raises:
        UserError: a task's own, or the engine's: not installed, not reachable, workers lost again and again.
    """
    if not tasks:
        return
    match engine:
        case RayEngineConfig():
            try:
                import ray  # noqa: F401
            except ImportError:
                raise _not_installed("ray", package="ray") from None
            from data_prep.engines.ray import run_ray

            yield from run_ray(tasks, engine=engine, on_progress=on_progress)
        case SlurmEngineConfig():
            try:
                import submitit  # noqa: F401
            except ImportError:
                raise _not_installed("slurm", package="submitit") from None
            from data_prep.engines.slurm import run_slurm

            yield from run_slurm(tasks, engine=engine, on_progress=on_progress)
        case _:
            yield from run_local(tasks, workers=engine.workers, on_progress=on_progress)


def _not_installed(engine: str, *, package: str) -> UserError:
    return UserError(f"engine={engine}: {package} is not installed; pip install 'tarmac[{engine}]'")
