"""`python -m pipeline.launch MODULE [option=value ...]`: start MODULE on several ranks of this machine by torchrun.

    NPROC=4 python -m pipeline.launch pipeline.train data.path=data/cifar10

One rank a GPU, or two on a machine without one; the variable NPROC says otherwise. With RESTARTS=3 ranks that end
other than well are started again, up to three times, and go on from their last checkpoint. The options are checked
here first, so that a misspelt one is one line and not one a rank.
"""

from __future__ import annotations

import logging
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import get_args_parser
from torch.distributed.run import run as torchrun

from pipeline.compose import Schemas, compose
from pipeline.config import TRAIN_SCHEMAS
from pipeline.evaluate_config import EVALUATE_SCHEMAS
from pipeline.shards.errors import UserError, report_user_error, run_entry_point

DEFAULT_CPU_RANKS = 2
SCHEMAS: dict[str, tuple[str, Schemas]] = {
    "pipeline.train": ("train", TRAIN_SCHEMAS),
    "pipeline.evaluate": ("evaluate", EVALUATE_SCHEMAS),
}


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in SCHEMAS:
        raise UserError(f"python -m pipeline.launch MODULE: one of {', '.join(SCHEMAS)} wanted")
    module, options = argv[0], argv[1:]
    num_ranks = read_count("NPROC", os.environ, least=1, default=torch.cuda.device_count() or DEFAULT_CPU_RANKS)
    num_restarts = read_count("RESTARTS", os.environ, least=0, default=0)
    if {"-h", "--help"} & set(options):
        sys.argv = argv
        runpy.run_module(module, run_name="__main__")
        return 0
    root, schemas = SCHEMAS[module]
    compose(root, schemas, options)
    # torchrun would set 1 and say so at length; ranks share the cores evenly.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_ranks)))
    # OpenMP's threads spin while they wait; on a busy machine they then spin away each other's time (one rank of
    # two threads, both cores in other use: about 500 images/s, and 2,390 with this; docs/LOG.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # Its own account of a failed rank is a page; the rank has said what is wrong.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    # Passed on to the ranks, beside SIGTERM, SIGINT and others: Slurm announces the end of a job's time with it.
    os.environ.setdefault("PET_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")
    counts = [f"--nproc-per-node={num_ranks}", f"--max-restarts={num_restarts}"]
    try:
        # Else it makes a folder in /tmp for what ranks leave on failing, and leaves it there.
        with tempfile.TemporaryDirectory(prefix="tarmac-launch-", ignore_cleanup_errors=True) as folder:
            command = ["--standalone", *counts, f"--log-dir={folder}", "--module", module, *options]
            torchrun(get_args_parser().parse_args(command))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        exit_code = error.get_first_failure()[1].exitcode
        return exit_code if exit_code > 0 else 128 - exit_code
    except SignalException as error:
        return report_user_error("interrupted", exit_code=128 + error.sigval)
    return 0


def read_count(variable: str, environment: Mapping[str, str], *, least: int, default: int) -> int:
    """Return the whole number in a variable of the environment, or the default where it is empty or not there.

    Raises:
        UserError: not a whole number from `least`.
    """
    text = environment.get(variable, "")
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{variable}={text}: a whole number from {least} wanted")
    return int(text)


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
