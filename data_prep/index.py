"""`python -m data_prep.index path=...`: adopt foreign WebDataset shards in place, or export indexes of shards."""

from __future__ import annotations

import logging
import sys

from data_prep.adopt.adopt import adopt
from data_prep.adopt.dali import export_dali
from data_prep.config import INDEX_SCHEMAS, Export, IndexConfig
from pipeline.compose import compose, help_text
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.storage import open_store

SUMMARY = """Adopt WebDataset shards that others made: sidecars and manifests are written, no tar is touched.

  python -m data_prep.index path=web/imagenet                                   # beside the tars
  python -m data_prep.index 'path="https://host/train-{0000..0146}.tar"' out=data/imagenet
  python -m data_prep.index path=data/imagenet export=wds2idx out=data/dali      # indexes for NVIDIA DALI

Everything in the tars is read once, for the checksums. An interrupted run goes on when it is typed again."""


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("index", INDEX_SCHEMAS, summary=SUMMARY))
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config: IndexConfig = compose("index", INDEX_SCHEMAS, argv)
    if config.export is Export.wds2idx:
        if config.out is None:
            raise UserError("out is needed: add out=..., the folder for the indexes")
        num_tars = export_dali(open_store(config.path), open_store(config.out))
        sys.stdout.write(f"{num_tars:,} indexes in {config.out}\n")
        return 0
    data_set = adopt(config)
    counts = ", ".join(f"{split.num_samples:,} {name}" for name, split in data_set.splits.items())
    sys.stdout.write(f"{data_set.name}: {counts} samples of {data_set.num_classes} classes adopted\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
