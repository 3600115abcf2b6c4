"""`python -m data_prep source=... out=...`: make a data set of tar shards. `--help` lists every option."""

from __future__ import annotations

import logging
import shlex
import sys

from data_prep.card.page import CARD_FILE
from data_prep.card.text import counted
from data_prep.config import PREPARE_SCHEMAS, PrepareConfig
from data_prep.prepare import prepare
from pipeline.compose import compose, help_text
from pipeline.shards.errors import run_entry_point
from pipeline.shards.task import Task

SUMMARY = """Turn an image collection into streaming tar shards.

  python -m data_prep source=folder source.root=photos out=data/photos layout.resolution=64
  python -m data_prep source=synthetic source.samples=100000 out=data/synthetic

An interrupted run goes on when the same command is typed again."""
# Options of a training command for data of each task.
OBJECTIVES = {
    Task.classification: "",
    Task.multilabel: " objective=binary_cross_entropy",
    Task.regression: " objective=mse augment=none",
}


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("prepare", PREPARE_SCHEMAS, summary=SUMMARY))
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config: PrepareConfig = compose("prepare", PREPARE_SCHEMAS, argv)
    data_set = prepare(config)
    counts = ", ".join(f"{split.num_samples:,} {name}" for name, split in data_set.splits.items())
    nouns = ("target", "targets") if data_set.task is Task.regression else ("class", "classes")
    sys.stdout.write(f"{data_set.name}: {counts} samples of {counted(data_set.num_classes, *nouns)} in {config.out}\n")
    sys.stdout.write(f"look at it: {config.out}/{CARD_FILE}\n")
    if data_set.packed is not None:
        typed = f"{shlex.quote(f'data.path={config.out}')}{OBJECTIVES[data_set.task]}"
        sys.stdout.write(f"train on it: python -m pipeline.train {typed}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
