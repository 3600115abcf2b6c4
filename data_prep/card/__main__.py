"""`python -m data_prep.card path=DIR`: make the card of a finished data set again, whoever prepared it."""

from __future__ import annotations

import sys
from pathlib import Path

from data_prep.card.config import CARD_SCHEMAS, CardConfig
from data_prep.card.facts import gather_facts
from data_prep.card.page import write_card
from pipeline.compose import compose, help_text
from pipeline.shards.errors import run_entry_point
from pipeline.shards.manifest import read_data_set

SUMMARY = """Make card.html, one page that shows what a data set holds.

  python -m data_prep.card path=data/cifar10"""


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("card", CARD_SCHEMAS, summary=SUMMARY))
        return 0
    config: CardConfig = compose("card", CARD_SCHEMAS, argv)
    root = Path(config.path)
    facts = gather_facts(read_data_set(root))
    sys.stdout.write(f"{facts.name}: {write_card(root, facts)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
