"""What is said to Slurm through submitit, and heard from it: options of a job array, numbers of jobs, last words.

    executor = open_executor(SlurmEngineConfig(partition="cpu", extra=["qos=high"]), Path("/shared/logs/run-1"))
    job_numbers(executor.submit_array([...]))       # ["4711"]

An array has one number; its jobs are 4711_0, 4711_1, ...
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import submitit

from data_prep.config import Cluster, SlurmEngineConfig
from pipeline.shards.errors import UserError

OPTION_NAME = re.compile(r"[a-z][a-z0-9-]*")


def open_executor(engine: SlurmEngineConfig, folder: Path) -> Any:
    """Return submitit's executor with the options of `engine`; its logs and pickles go to `folder`."""
    # It speaks of each submission.
    logging.getLogger("submitit").setLevel(logging.ERROR)
    executor = submitit.AutoExecutor(folder=folder, cluster=engine.cluster.value)
    options: dict[str, Any] = {"name": "tarmac", "timeout_min": engine.time_min, "cpus_per_task": engine.cpus_per_task}
    if engine.mem_gb is not None:
        options["mem_gb"] = engine.mem_gb
    if engine.cluster is Cluster.slurm:
        chosen = {"partition": engine.partition, "account": engine.account}
        options |= {f"slurm_{name}": value for name, value in chosen.items() if value is not None}
        options |= {"slurm_additional_parameters": _extra(engine.extra), "slurm_array_parallelism": engine.workers}
    executor.update_parameters(**options)
    return executor


def _extra(options: list[str]) -> dict[str, str | bool]:
    """Return sbatch's options by name; `exclusive` has no value, `qos:high` and `qos=high` have one."""
    extra: dict[str, str | bool] = {}
    for option in options:
        name, _, value = option.removeprefix("--").replace("=", ":", 1).partition(":")
        if not OPTION_NAME.fullmatch(name):
            raise UserError(f"engine.extra={option}: name:value or name wanted, as sbatch has it")
        extra[name] = value or True
    return extra


def last_words(job: Any) -> str:
    """Return a lost job's number, log file and that file's last line, Slurm's own echo left out."""
    path = job.paths.stderr
    try:
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines()]
    except OSError:
        lines = []
    told = [line for line in lines if line and not line.startswith("srun: ")] or [line for line in lines if line]
    return f"job {job.job_id}, {path}: {told[-1] if told else 'nothing there'}"


def job_numbers(jobs: Iterable[Any]) -> list[str]:
    """Return Slurm's numbers of jobs, one for a whole array."""
    return sorted({job.job_id.partition("_")[0] for job in jobs})
