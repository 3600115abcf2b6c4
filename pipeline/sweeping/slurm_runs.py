"""Runs as jobs of Slurm, or of submitit's stand-in on this machine, submitted as one array and waited for.

    for number, exit_code in run_as_jobs(jobs, config=config, folder=sweep.folder):
        ...

A job runs on one machine and starts its ranks there. When this process ends by an error or Ctrl-C it cancels the jobs;
when it is killed they go on, and the same sweep begun again first cancels those and waits until they are gone, as two
of them must not write into one run folder.

Measured only with submitit's stand-in; no Slurm was at hand.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.shards.errors import UserError
from pipeline.shards.publish import publish_json
from pipeline.sweep_config import RunsConfig, Where
from pipeline.sweeping.local_runs import Job, start

POLL_S = 0.5
JOBS_FOLDER = "jobs"
JOBS_FILE = "jobs.json"
GONE_S = 120.0
LOST = 1


def run_as_jobs(jobs: Sequence[Job], *, config: RunsConfig, folder: Path) -> Iterator[tuple[int, int]]:
    """Submit every run and yield its number and exit code as it ends; of a job that was lost the code is 1.

    Raises:
        UserError: submitit or Slurm is not here, or refuses the jobs.
    """
    home = folder.absolute() / JOBS_FOLDER
    home.mkdir(mode=0o700, exist_ok=True)
    if config.where is Where.slurm:
        if shutil.which("sbatch") is None:
            raise UserError("sweep.where=slurm: no sbatch on this machine; type the command where jobs are submitted")
        _end_earlier(home / JOBS_FILE)
    executor = _open_executor(config, home)
    variables = {
        "NPROC": str(config.ranks),
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path))),
    }
    waiting = [
        (job.number, functools.partial(run_job, list(job.command), str(job.log.absolute()), job.number, variables))
        for job in jobs
    ]
    # Slurm starts so many jobs of an array at a time as it is told; the stand-in would start all.
    num_at_once = len(waiting) if config.where is Where.slurm else config.jobs
    under_way: dict[int, Any] = {}
    try:
        while waiting or under_way:
            if now := waiting[: num_at_once - len(under_way)]:
                waiting = waiting[len(now) :]
                under_way |= zip((number for number, _ in now), _submit(executor, config, now), strict=True)
                publish_json(home / JOBS_FILE, [str(job.job_id) for job in under_way.values()])
            ended = [number for number, job in under_way.items() if job.done()]
            for number in ended:
                yield number, _exit_code(under_way.pop(number))
            if not ended:
                time.sleep(POLL_S)
    finally:
        for job in under_way.values():
            job.cancel(check=False)


def _submit(executor: Any, config: RunsConfig, works: Sequence[tuple[int, Callable[[], int]]]) -> list[Any]:
    try:
        return list(executor.submit_array([work for _, work in works]))
    except (RuntimeError, ValueError, OSError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
        raise UserError(f"sweep.where={config.where.name}: the jobs were refused: {lines[-1].strip()}") from None


def run_job(command: list[str], log: str, number: int, variables: Mapping[str, str]) -> int:
    """Run a training command in a job, and return its exit code."""
    cores = len(os.sched_getaffinity(0)) // int(variables["NPROC"])
    threads = {"OMP_NUM_THREADS": str(max(1, cores))}
    process = start(
        Job(number=number, command=command, log=Path(log)), variables={**variables, **threads}, own_session=False
    )
    return process.wait()


def _open_executor(config: RunsConfig, home: Path) -> Any:
    try:
        import submitit
    except ImportError:
        raise UserError(f"sweep.where={config.where.name} needs submitit: pip install 'tarmac[slurm]'") from None
    logging.getLogger("submitit").setLevel(logging.ERROR)  # it speaks of each submission
    slurm = config.slurm
    executor = submitit.AutoExecutor(folder=home / "%j", cluster="slurm" if config.where is Where.slurm else "local")
    options: dict[str, Any] = {
        "name": "tarmac",
        "timeout_min": slurm.time_min,
        "cpus_per_task": slurm.cpus_per_rank * config.ranks,
    }
    if slurm.mem_gb is not None:
        options["mem_gb"] = slurm.mem_gb
    if config.where is Where.slurm:
        if slurm.gpus_per_rank:
            options["gpus_per_node"] = slurm.gpus_per_rank * config.ranks
        chosen = {"partition": slurm.partition, "account": slurm.account}
        options |= {f"slurm_{name}": value for name, value in chosen.items() if value is not None}
        options["slurm_array_parallelism"] = config.jobs
    executor.update_parameters(**options)
    return executor


def _exit_code(job: Any) -> int:
    try:
        return int(job.result())
    except Exception:  # of submitit, whatever became of the job: it did not come back with a code
        return LOST


def _end_earlier(path: Path) -> None:
    """Cancel the jobs of a sweep that was killed, and wait until Slurm has none of them any more."""
    if not path.is_file():
        return
    ids = json.loads(path.read_bytes())
    arrays = sorted({str(job_id).partition("_")[0] for job_id in ids})
    subprocess.run(["scancel", *arrays], check=False, capture_output=True)
    deadline_s = time.monotonic() + GONE_S
    while arrays and time.monotonic() < deadline_s:
        asked = subprocess.run(
            ["squeue", "--noheader", "--format=%A", f"--jobs={','.join(arrays)}"],
            check=False,
            capture_output=True,
            text=True,
        )
        # Slurm forgets finished jobs after a while and then calls their numbers invalid.
        if asked.returncode != 0 or not asked.stdout.strip():
            return
        time.sleep(1.0)
    if arrays:
        raise UserError(f"jobs {', '.join(arrays)} of an earlier sweep do not end; see squeue, then type this again")
