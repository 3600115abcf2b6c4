"""The card itself: one HTML file that needs no network and no script, for light and dark, wide and narrow screens.

    write_card(store.publish, gather_facts(data_set, store=store))      # card.html

Equal facts give equal bytes. Its own content policy forbids scripts and everything that is not in the file; whatever
comes from the data is escaped besides.
"""

from __future__ import annotations

import hashlib

from data_prep.card import sections
from data_prep.card.balance_section import class_balance
from data_prep.card.duplicates_section import duplicates
from data_prep.card.facts import CardFacts
from data_prep.card.samples_section import samples
from data_prep.card.sizes_section import image_sizes
from data_prep.card.style import STYLE
from data_prep.card.text import as_bytes, counted, escaped
from pipeline.shards.publish import Publish
from pipeline.shards.task import Task

CARD_FILE = "card.html"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

CLASSES = ("classes", "Class balance", class_balance)
# In its place where samples have targets.
TARGETS = ("targets", "Targets", sections.targets)
SECTIONS = (
    ("samples", "Samples", samples),
    ("splits", "Splits", sections.splits),
    CLASSES,
    ("sizes", "Image sizes", image_sizes),
    ("channels", "Channels", sections.channels),
    ("duplicates", "Exact duplicates", duplicates),
    ("rejected", "Rejected items", sections.rejected),
    ("provenance", "Provenance", sections.provenance),
)


_SEAL = b"<!-- sha256 %s -->\n"
_SEAL_BYTES = len(_SEAL) - 2 + 64


def write_card(publish: Publish, facts: CardFacts) -> None:
    """Publish card.html where the data set is."""
    with publish(CARD_FILE) as stream:
        stream.write(sealed(make_card(facts).encode()))


def sealed(page: bytes) -> bytes:
    """Return a page with the SHA-256 of all its bytes in a comment behind it, so that `verify` can check it alone."""
    return page + _SEAL % hashlib.sha256(page).hexdigest().encode()


def is_sealed_card(raw: bytes) -> bool:
    """Tell whether a card's bytes are those that were sealed."""
    return sealed(raw[:-_SEAL_BYTES]) == raw


def make_card(facts: CardFacts) -> str:
    """Return the whole page."""
    has_targets = facts.task is Task.regression
    shown = [TARGETS if section == CLASSES and has_targets else section for section in SECTIONS]
    bodies = [(anchor, title, section(facts)) for anchor, title, section in shown]
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in bodies)
    panels = "".join(
        f'<section id="{anchor}" aria-labelledby="{anchor}-title">'
        f'<h2 id="{anchor}-title">{title}</h2>{body}</section>\n'
        for anchor, title, body in bodies
    )
    name = escaped(facts.name)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{name}: data set card</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{name}</h1>
<p class="lead">{_what_it_is(facts)}</p>
<nav aria-label="Sections">{links}</nav>
{_tiles(facts)}
{sections.findings(facts)}
</header>
<main>
{panels}</main>
<footer>Data set card made by Tarmac. This page is one file: it loads nothing and sends nothing.</footer>
</body>
</html>
"""


def _what_it_is(facts: CardFacts) -> str:
    kinds = {
        Task.classification: f"one of {counted(len(facts.classes), 'class', 'classes')} each",
        Task.multilabel: f"any number of {counted(len(facts.classes), 'class', 'classes')} each",
        Task.regression: f"{counted(len(facts.classes), 'target')} each",
    }
    if facts.packed is None:
        stored = "kept as JPEG, PNG or WebP files"
    else:
        colour = "colour" if facts.packed.channels == 3 else "grey"
        stored = f"stored as {colour} pixels, {facts.packed.width} × {facts.packed.height}"
    splits = " and ".join(f"{split.num_samples:,} {escaped(split.name)}" for split in facts.splits)
    return f"{splits} images, {kinds[facts.task]}, {stored} in tar shards."


def _tiles(facts: CardFacts) -> str:
    tiles = [
        ("samples", f"{facts.num_samples:,}"),
        ("targets" if facts.task is Task.regression else "classes", f"{len(facts.classes):,}"),
        ("size", as_bytes(facts.size_bytes)),
        ("shards", f"{sum(split.num_shards for split in facts.splits):,}"),
        ("rejected items", f"{facts.rejected.num_items:,}"),
        ("duplicate groups", "not sought" if facts.duplicates is None else f"{facts.duplicates.num_groups:,}"),
    ]
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles)
    return f'<dl class="tiles">{cells}</dl>'
