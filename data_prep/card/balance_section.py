"""The section on how samples spread over classes."""

from __future__ import annotations

from collections.abc import Iterable

from data_prep.card.charts import Series, bar_chart, line_chart
from data_prep.card.facts import CardFacts, SplitFacts
from data_prep.card.markup import table
from data_prep.card.text import counted, escaped
from pipeline.shards.task import Task

# Up to so many classes the table shows all of them; of more, the most and the least frequent.
MAX_TABLE_CLASSES = 40
NUM_END_CLASSES = 20
MAX_LABEL_BARS = 24
MAX_TABLE_SPLITS = 4


def class_balance(facts: CardFacts) -> str:
    """Tell and draw how samples spread over classes, and how many classes a sample has where there may be several."""
    told = "".join(f"<p>{_spread(split)}</p>" for split in facts.splits)
    panels = [told]
    if len(facts.classes) > MAX_TABLE_CLASSES:
        lines = [Series(name=split.name, values=sorted(split.class_counts, reverse=True)) for split in facts.splits]
        chart = line_chart(
            lines,
            title="Samples of each class, from the most frequent to the least, by split",
            x_label="class, by rank of frequency",
            y_label="samples",
        )
        panels = [chart, told]
    if facts.task is Task.multilabel:
        panels[-1] += "<p>A sample counts once for each of its classes.</p>" + _label_bars(facts.splits[0])
    parts = [f'<div class="columns">{"".join(f"<div>{panel}</div>" for panel in panels)}</div>']
    order = sorted(range(len(facts.classes)), key=lambda label: -facts.splits[0].class_counts[label])
    if len(order) <= MAX_TABLE_CLASSES:
        parts.append(_class_table(facts, range(len(order))))
    else:
        first, last = order[:NUM_END_CLASSES], order[-NUM_END_CLASSES:]
        name = escaped(facts.splits[0].name)
        parts.append(
            f'<div class="columns"><div><h3>Most frequent in {name}</h3>{_class_table(facts, first)}</div>'
            f"<div><h3>Least frequent in {name}</h3>{_class_table(facts, last)}</div></div>"
        )
    return "".join(parts)


def _spread(split: SplitFacts) -> str:
    """Return the sentence on how a split's samples spread over the classes."""
    counts = sorted(split.class_counts)
    least, most, middle = counts[0], counts[-1], counts[len(counts) // 2]
    name = f"<strong>{escaped(split.name)}</strong>"
    if least == most:
        return f"{name}: {counted(least, 'sample')} of each class."
    ratio = f"; the most frequent has {most / least:.3g} times the least" if least else ""
    return f"{name}: {least:,} to {most:,} samples of a class, median {middle:,}{ratio}."


def _label_bars(split: SplitFacts) -> str:
    counts = list(split.label_counts)
    labels = [str(number) for number in range(len(counts))]
    if len(counts) > MAX_LABEL_BARS:
        counts = [*counts[: MAX_LABEL_BARS - 1], sum(counts[MAX_LABEL_BARS - 1 :])]
        labels = [*labels[: MAX_LABEL_BARS - 1], f"{MAX_LABEL_BARS - 1}+"]
    mean = sum(split.class_counts) / split.num_samples
    title = f"Classes per sample in {split.name}, {mean:.2f} on average"
    chart = bar_chart(counts, title=title, x_label="classes per sample", y_label="samples", labels=labels)
    return f"<h3>{escaped(title)}</h3>{chart}"


def _class_table(facts: CardFacts, labels: Iterable[int]) -> str:
    """Return a table of some classes: name, id, samples of each split, and a bar for the first split."""
    named = facts.class_ids != facts.classes
    shown = facts.splits[:MAX_TABLE_SPLITS]
    most = max(1, *facts.splits[0].class_counts)
    head = ["label", "class", *(["id"] if named else []), *(escaped(split.name, limit=60) for split in shown), ""]
    rows = []
    for label in labels:
        name = escaped(facts.classes[label], limit=100)
        counts = [f"{split.class_counts[label]:,}" for split in shown]
        share = 100 * facts.splits[0].class_counts[label] / most
        ids = [f'<span class="k id">{escaped(facts.class_ids[label], limit=60)}</span>'] if named else []
        rows.append([str(label), name, *ids, *counts, f'<i style="width:{share:.1f}%"></i>'])
    first = 2 + named
    return table(head, rows, numbers={0, *range(first, first + len(shown))}, bars=first + len(shown))
