"""`python -m data_prep.card path=DIR_OR_URL`: make the card of a finished data set again, whoever prepared it."""

from __future__ import annotations

import sys

from data_prep.card.config import CARD_SCHEMAS, CardConfig
from data_prep.card.gather import gather_facts
from data_prep.card.page import CARD_FILE, write_card
from data_prep.view import data_set_view
from pipeline.compose import compose, help_text
from pipeline.shards.errors import run_entry_point
from pipeline.storage import open_store

SUMMARY = """Make card.html, one page that shows what a data set holds.

  python -m data_prep.card path=data/cifar10"""


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("card", CARD_SCHEMAS, summary=SUMMARY))
        return 0
    config: CardConfig = compose("card", CARD_SCHEMAS, argv)
    store = open_store(config.path)
    with data_set_view(store) as data_set:
        facts = gather_facts(data_set, store=store)
    write_card(store.publish, facts)
    sys.stdout.write(f"{facts.name}: {config.path.rstrip('/')}/{CARD_FILE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
