"""The sections of a card, each a function from the facts to HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from data_prep.card.charts import Series, bar_chart, bin_text, line_chart, size_chart
from data_prep.card.facts import CardFacts, DuplicateGroup, SampleFacts, SplitFacts
from data_prep.card.samples import Thumbnail
from data_prep.card.sizes import EDGES, SizeHistogram
from data_prep.card.text import as_bytes, counted, escaped, percent
from pipeline.shards.task import Task

# Up to so many classes the table shows all of them; of more, the most and the least frequent.
MAX_TABLE_CLASSES = 40
NUM_END_CLASSES = 20
MAX_LABEL_BARS = 24
MAX_NAMED_LABELS = 4
MAX_SHOWN_REASONS = 20
MAX_SHARED_ROWS = 30
# Pictures of at most so many pixels a side are enlarged without smoothing.
PIXELATED_SIDE = 64


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
    return f'<div class="note warn"><strong>Worth knowing</strong><ul>{_items(told)}</ul></div>'


def samples(facts: CardFacts) -> str:
    """Show pictures split by split, class by class where classes are few."""
    if not facts.samples:
        return "<p>None shown.</p>"
    parts = ['<p class="soft">Drawn by a keyed hash: the same ones whenever this card is made.</p>']
    for split, group in groupby(facts.samples, key=lambda sample: sample.split):
        shown = list(group)
        parts.append(f"<h3>{escaped(split)}</h3>")
        runs = [(labels, list(run)) for labels, run in groupby(shown, key=lambda sample: sample.labels)]
        by_class = facts.task is Task.classification and 3 * len(runs) <= len(shown)
        if by_class:
            rows = "".join(
                f'<div class="class"><h4>{_labels(facts, labels)}</h4>'
                f"<div>{''.join(_frame(facts, sample) for sample in run)}</div></div>"
                for labels, run in runs
            )
            parts.append(f'<div class="classes">{rows}</div>')
        else:
            figures = "".join(
                f"<figure>{_frame(facts, sample)}<figcaption>{_told(facts, sample)}</figcaption></figure>"
                for sample in shown
            )
            parts.append(f'<div class="pictures">{figures}</div>')
    return "".join(parts)


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
    return _table(["split", "samples", "share", "shards", "size"], rows, numbers={1, 2, 3, 4})


def targets(facts: CardFacts) -> str:
    """Tell how the targets of a regression lie in each split."""
    rows = [
        [
            escaped(name, limit=100),
            escaped(split.name, limit=60),
            *(f"{value:.6g}" for value in (found.least, found.mean, found.std, found.most)),
        ]
        for number, name in enumerate(facts.classes[:MAX_TABLE_CLASSES])
        for split in facts.splits
        for found in [split.targets[number]]
    ]
    more = len(facts.classes) - MAX_TABLE_CLASSES
    told = f"<p>And {more:,} more targets.</p>" if more > 0 else ""
    head = ["target", "split", "least", "mean", "standard deviation", "most"]
    return _table(head, rows, numbers={2, 3, 4, 5}) + told


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


def image_sizes(facts: CardFacts) -> str:
    before, after = facts.sizes_before, facts.sizes_after
    known = [sizes for sizes in (before, after) if sizes is not None and sizes.cells]
    octaves = _octaves(known)
    mark = (facts.packed.width, facts.packed.height) if facts.packed else None
    if before is None:
        first = "<p>Not recorded.</p>"
    else:
        first = _size_panel(before, title="Sizes in the source", octaves=octaves, mark=mark)
    second = _size_panel(after, title="Sizes as stored", octaves=octaves, mark=None)
    if before is not None and mark is not None:
        second += _enlarged(before, side=min(mark))
    return (
        f'<div class="columns"><div><h3>Before: in the source</h3>{first}</div>'
        f"<div><h3>After: as stored</h3>{second}</div></div>"
    )


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
        + _table(
            ["channel", "mean, 0 to 255", "std, 0 to 255", "mean, 0 to 1", "std, 0 to 1"], rows, numbers={1, 2, 3, 4}
        )
    )


def duplicates(facts: CardFacts) -> str:
    found = facts.duplicates
    if found is None:
        return (
            "<p>Not sought: the shards lie in an object store, and the checksums that preparation leaves of their"
            " images are not beside them.</p>"
        )
    sizes = {split.name: split.num_samples for split in facts.splits}
    stored = "pixels" if facts.packed else "files"
    parts = [
        f'<p class="soft">Images are compared as they are stored, {stored} byte for byte. Pictures that only look alike'
        " are not found.</p>"
    ]
    leaks = [(split, other, number) for split, other, number in found.shared if number]
    if leaks:
        parts.append(
            '<div class="note warn"><strong>Leakage.</strong> Some samples stand in two splits. A model that has been'
            " trained on one of them has seen the other, so scores on it come out too good. Leave them out of one of"
            " the two before trusting a comparison.</div>"
        )
    elif len(facts.splits) > 1:
        parts.append('<p class="note good">No stored image stands in two splits.</p>')
    within = [
        [escaped(split), f"{number:,}", f"{sizes[split]:,}", percent(number, sizes[split])]
        for split, number in found.copies
    ]
    across = [
        [f"{escaped(split)} in {escaped(other)}", f"{number:,}", f"{sizes[split]:,}", percent(number, sizes[split])]
        for split, other, number in (found.shared if len(found.shared) <= MAX_SHARED_ROWS else leaks[:MAX_SHARED_ROWS])
    ]
    columns = ["split", "samples", "of", "share"]
    parts.append(
        f'<div class="columns"><div><h3>Repeats of another sample of the same split</h3>'
        f"{_table(columns, within, numbers={1, 2, 3})}</div>"
    )
    if across:
        table = _table(columns, across, numbers={1, 2, 3})
        parts.append(f"<div><h3>Samples that are also in another split</h3>{table}</div>")
    parts.append("</div>")
    if found.num_conflicting:
        parts.append(
            f"<p>In {counted(found.num_conflicting, 'group')} of {found.num_groups:,} the"
            + (
                " targets differ: they do not follow from the image alone.</p>"
                if facts.task is Task.regression
                else " labels differ: one of them is wrong, or the classes overlap.</p>"
            )
        )
    if found.examples:
        shown = len(found.examples)
        count = f"{shown:,} of {found.num_groups:,} groups" if shown < found.num_groups else counted(shown, "group")
        groups = "".join(_duplicate_group(facts, group) for group in found.examples)
        parts.append(f"<details open><summary>{count}</summary>{groups}</details>")
    return "".join(parts)


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
        + _table(["reason", "items"], reasons, numbers={1})
        + f"<details><summary>{summary}</summary>{_table(['split', 'item', 'reason'], items)}</details>"
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
    return command + (_table(["choice", "value"], rows) if rows else "")


def _frame(facts: CardFacts, sample: SampleFacts) -> str:
    names = ", ".join(facts.classes[label] for label in sample.labels) or "no label"
    if sample.targets:
        names = _target_text(facts, sample.targets)
    place = f"{names}; {sample.split} {sample.id}: {sample.source_key}, {sample.width} × {sample.height}"
    return f'<div class="frame" title="{escaped(place)}">{_picture(sample.picture, told=names)}</div>'


def _picture(picture: Thumbnail | None, *, told: str) -> str:
    if picture is None:
        return "<span>cannot be decoded</span>"
    kind = ' class="pixels"' if max(picture.width, picture.height) <= PIXELATED_SIDE else ""
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img{kind} alt="{escaped(told, limit=120)}" {size} src="{picture.uri}">'


def _told(facts: CardFacts, sample: SampleFacts) -> str:
    """Return a sample's labels or targets as HTML."""
    return escaped(_target_text(facts, sample.targets)) if sample.targets else _labels(facts, sample.labels)


def _target_text(facts: CardFacts, targets: Sequence[float]) -> str:
    shown = zip(facts.classes, targets[:MAX_NAMED_LABELS], strict=False)
    return ", ".join(f"{name} {value:.4g}" for name, value in shown)


def _labels(facts: CardFacts, labels: Sequence[int]) -> str:
    if not labels:
        return "<i>no label</i>"
    names = ", ".join(escaped(facts.classes[label], limit=80) for label in labels[:MAX_NAMED_LABELS])
    more = len(labels) - MAX_NAMED_LABELS
    return f"{names} and {more} more" if more > 0 else names


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
    shown = facts.splits[:MAX_NAMED_LABELS]
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
    return _table(head, rows, numbers={0, *range(first, first + len(shown))}, bars=first + len(shown))


def _octaves(histograms: Sequence[SizeHistogram]) -> tuple[int, int]:
    """Return the powers of two between which all sizes lie, at least two octaves apart."""
    bins = [number for sizes in histograms for cell in sizes.cells for number in cell]
    low = EDGES[min(bins)].bit_length() - 1
    high = (EDGES[max(bins)]).bit_length()
    return (low, high) if high - low >= 2 else (max(0, low - 1), high + 1)


def _size_panel(sizes: SizeHistogram, *, title: str, octaves: tuple[int, int], mark: tuple[int, int] | None) -> str:
    if not sizes.widths or not sizes.heights:
        return "<p>No images.</p>"
    (low_width, high_width), (low_height, high_height) = sizes.widths, sizes.heights
    if low_width == high_width and low_height == high_height:
        return f"<p>All {sizes.num_images:,} images: {low_width} × {low_height} pixels.</p>"
    shorter = _median_bin((min(cell), count) for cell, count in sizes.cells.items())
    text = (
        f"{counted(sizes.num_images, 'image')}: widths {low_width:,} to {high_width:,}, heights {low_height:,} to"
        f" {high_height:,} pixels. The median shorter side is {bin_text(shorter)} pixels."
    )
    marked = " Dashed: the stored size." if mark else ""
    return f"<p>{text}{marked}</p>" + size_chart(sizes, title=f"{title}. {text}", octaves=octaves, mark=mark)


def _median_bin(counts: Iterable[tuple[int, int]]) -> int:
    in_order = sorted(counts)
    half, seen = sum(count for _, count in in_order) / 2, 0
    for number, count in in_order:
        seen += count
        if seen >= half:
            return number
    raise ValueError("no counts")


def _enlarged(sizes: SizeHistogram, *, side: int) -> str:
    """Say how many images had to be enlarged to `side`; exact where that is a bin's edge."""
    below = sum(
        count for cell, count in sizes.cells.items() if min(cell) + 1 < len(EDGES) and EDGES[min(cell) + 1] <= side
    )
    if not below:
        return ""
    at_least = "" if side in EDGES else "At least "
    ends = "was enlarged." if below == 1 else "were enlarged."
    share = percent(below, sizes.num_images)
    return (
        f"<p>{at_least}{counted(below, 'image')} ({share}) had a shorter side under {side} pixels in the source and"
        f" {ends}</p>"
    )


def _duplicate_group(facts: CardFacts, group: DuplicateGroup) -> str:
    rows = [
        f"{escaped(member.split)} {member.id:,} · {_told(facts, member)} ·"
        f' <span class="k">{escaped(member.source_key)}</span>'
        for member in group.members
    ]
    if (more := group.num_members - len(group.members)) > 0:
        rows.append(f"and {more:,} more")
    return f'<div class="group">{_frame(facts, group.members[0])}<ul>{_items(rows)}</ul></div>'


def _items(rows: Iterable[str]) -> str:
    return "".join(f"<li>{row}</li>" for row in rows)


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = (), bars: int | None = None
) -> str:
    """Return a table of cells that are HTML already; columns in `numbers` are set right, the one of `bars` is drawn."""
    right = set(numbers)

    def kind(column: int) -> str:
        return ' class="n"' if column in right else ' class="share"' if column == bars else ""

    top = "".join(f'<th scope="col"{kind(column)}>{cell}</th>' for column, cell in enumerate(head))
    body = "".join(
        f"<tr>{''.join(f'<td{kind(column)}>{cell}</td>' for column, cell in enumerate(row))}</tr>" for row in rows
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
