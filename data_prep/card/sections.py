"""The sections of a card that are no more than a list or a table, each a function from the facts to HTML."""

from __future__ import annotations

from data_prep.card.facts import CardFacts
from data_prep.card.markup import bullets, table
from data_prep.card.text import as_bytes, counted, escaped, percent
from pipeline.shards.task import Task

MAX_TABLE_TARGETS = 40
MAX_SHOWN_REASONS = 20


def findings(facts: CardFacts) -> str:
    """Say first what a user of the data set ought to know."""
    told = []
    sizes = {split.name: split.num_samples for split in facts.splits}
    for split, other, number in facts.duplicates.shared if facts.duplicates else ():
        if number:
            told.append(
                f"{number:,} of {sizes[split]:,} {escaped(split)} samples ({percent(number, sizes[split])}) are also in"
                f" {escaped(other)}: leakage"
            )
    if facts.duplicates and facts.duplicates.num_conflicting:
        groups = counted(facts.duplicates.num_conflicting, "group")
        what = "targets" if facts.task is Task.regression else "labels"
        told.append(f"{groups} of equal images with different {what}")
    if facts.rejected.num_items:
        told.append(f"{counted(facts.rejected.num_items, 'item')} of the source left out")
    empty = [(split.name, split.class_counts.count(0)) for split in facts.splits]
    told += [
        f"{counted(number, 'class', 'classes')} without a sample in {escaped(name)}" for name, number in empty if number
    ]
    if not told:
        leakage = "No leakage between splits, no" if facts.duplicates and len(facts.splits) > 1 else "No"
        classes = "" if facts.task is Task.regression else ", no empty classes"
        return f'<p class="note good">{leakage} rejected items{classes}.</p>'
    return f'<div class="note warn"><strong>Worth knowing</strong><ul>{bullets(told)}</ul></div>'


def splits(facts: CardFacts) -> str:
    rows = [
        [
            escaped(split.name),
            f"{split.num_samples:,}",
            percent(split.num_samples, facts.num_samples),
            f"{split.num_shards:,}",
            as_bytes(split.size_bytes),
        ]
        for split in facts.splits
    ]
    return table(["split", "samples", "share", "shards", "size"], rows, numbers={1, 2, 3, 4})


def targets(facts: CardFacts) -> str:
    """Tell how the targets of a regression lie in each split."""
    rows = [
        [
            escaped(name, limit=100),
            escaped(split.name, limit=60),
            *(f"{value:.6g}" for value in (found.least, found.mean, found.std, found.most)),
        ]
        for number, name in enumerate(facts.classes[:MAX_TABLE_TARGETS])
        for split in facts.splits
        for found in [split.targets[number]]
    ]
    more = len(facts.classes) - MAX_TABLE_TARGETS
    told = f"<p>And {more:,} more targets.</p>" if more > 0 else ""
    head = ["target", "split", "least", "mean", "standard deviation", "most"]
    return table(head, rows, numbers={2, 3, 4, 5}) + told


def channels(facts: CardFacts) -> str:
    if not facts.mean:
        return "<p>Not measured: the images were not decoded.</p>"
    rows = [
        [name, f"{mean:.2f}", f"{std:.2f}", f"{mean / 255:.4f}", f"{std / 255:.4f}"]
        for name, mean, std in zip(facts.channels, facts.mean, facts.std, strict=True)
    ]
    shade = ",".join(str(round(value)) for value in (facts.mean * 3)[:3])
    return (
        f"<p>Over all pixels of {escaped(facts.splits[0].name)}."
        f' Its mean colour: <span class="swatch" style="background:rgb({shade})"></span></p>'
        + table(
            ["channel", "mean, 0 to 255", "std, 0 to 255", "mean, 0 to 1", "std, 0 to 1"], rows, numbers={1, 2, 3, 4}
        )
    )


def rejected(facts: CardFacts) -> str:
    found = facts.rejected
    if not found.num_items:
        return "<p>None: every item of the source is in the data set.</p>"
    reasons = [[escaped(reason), f"{number:,}"] for reason, number in found.reasons[:MAX_SHOWN_REASONS]]
    if others := found.reasons[MAX_SHOWN_REASONS:]:
        reasons.append([f"{len(others):,} further reasons", f"{sum(number for _, number in others):,}"])
    items = [
        [escaped(item.split), f'<span class="k">{escaped(item.source_key)}</span>', escaped(item.reason)]
        for item in found.examples
    ]
    shown, total = len(items), found.num_items
    summary = f"The first {shown:,} of {total:,} items" if shown < total else f"All {counted(total, 'item')}"
    return (
        f"<p>{counted(total, 'item')} of the source could not become samples. All stand in rejected.jsonl.</p>"
        + table(["reason", "items"], reasons, numbers={1})
        + f"<details><summary>{summary}</summary>{table(['split', 'item', 'reason'], items)}</details>"
    )


def provenance(facts: CardFacts) -> str:
    """Show what it was made with, and the command to make it again."""
    if facts.command is None:
        command = "<p>How it was made is not recorded, so there is no command to make it again.</p>"
    else:
        command = (
            "<p>The same source, options and versions give the same bytes. To make it again:</p>"
            f"<pre><code>{escaped(facts.command, limit=20_000)}</code></pre>"
        )
    rows = [
        [f'<span class="k">{escaped(name)}</span>', f'<span class="k">{escaped(value)}</span>']
        for name, value in facts.provenance
    ]
    return command + (table(["choice", "value"], rows) if rows else "")
