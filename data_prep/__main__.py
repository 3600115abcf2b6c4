"""`python -m data_prep source=... out=...`: make a data set of tar shards. `--help` lists every option."""

from __future__ import annotations

import logging
import shlex
import sys

from data_prep.card.page import CARD_FILE
from data_prep.config import PREPARE_SCHEMAS, PrepareConfig
from data_prep.prepare import prepare
from pipeline.compose import compose, help_text
from pipeline.shards.errors import run_entry_point
from pipeline.shards.task import Task

SUMMARY = """Turn an image collection into streaming tar shards.

  python -m data_prep source=folder source.root=photos out=data/photos layout.resolution=64
  python -m data_prep source=synthetic source.samples=100000 out=data/synthetic

An interrupted run goes on when the same command is typed again."""


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("prepare", PREPARE_SCHEMAS, summary=SUMMARY))
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config: PrepareConfig = compose("prepare", PREPARE_SCHEMAS, argv)
    data_set = prepare(config)
    counts = ", ".join(f"{split.num_samples:,} {name}" for name, split in data_set.splits.items())
    sys.stdout.write(f"{data_set.name}: {counts} samples of {data_set.num_classes} classes in {config.out}\n")
    sys.stdout.write(f"look at it: {config.out}/{CARD_FILE}\n")
    if data_set.packed is not None and data_set.task is Task.classification:  # training reads nothing else yet
        sys.stdout.write(f"train on it: python -m pipeline.train {shlex.quote(f'data.path={config.out}')}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
