"""The section that shows pictures, and how any one sample is shown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from data_prep.card.facts import CardFacts, SampleFacts
from data_prep.card.samples import Thumbnail
from data_prep.card.text import escaped
from pipeline.shards.task import Task

MAX_NAMED_LABELS = 4
# Pictures of at most so many pixels a side are enlarged without smoothing.
PIXELATED_SIDE = 64


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
                f"<div>{''.join(framed(facts, sample) for sample in run)}</div></div>"
                for labels, run in runs
            )
            parts.append(f'<div class="classes">{rows}</div>')
        else:
            figures = "".join(
                f"<figure>{framed(facts, sample)}<figcaption>{labels_told(facts, sample)}</figcaption></figure>"
                for sample in shown
            )
            parts.append(f'<div class="pictures">{figures}</div>')
    return "".join(parts)


def framed(facts: CardFacts, sample: SampleFacts) -> str:
    """Return a sample's picture as HTML, with what is known of it in its title."""
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


def labels_told(facts: CardFacts, sample: SampleFacts) -> str:
    """Return a sample's labels or targets as HTML."""
    return escaped(_target_text(facts, sample.targets)) if sample.targets else _labels(facts, sample.labels)


def _target_text(facts: CardFacts, targets: Sequence[float]) -> str:
    shown = zip(facts.classes, targets[:MAX_NAMED_LABELS], strict=False)
    told = ", ".join(f"{name} {value:.4g}" for name, value in shown)
    more = len(targets) - MAX_NAMED_LABELS
    return f"{told} and {more} more" if more > 0 else told


def _labels(facts: CardFacts, labels: Sequence[int]) -> str:
    if not labels:
        return "<i>no label</i>"
    names = ", ".join(escaped(facts.classes[label], limit=80) for label in labels[:MAX_NAMED_LABELS])
    more = len(labels) - MAX_NAMED_LABELS
    return f"{names} and {more} more" if more > 0 else names
