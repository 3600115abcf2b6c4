"""The section on images that are stored more than once."""

from __future__ import annotations

from data_prep.card.facts import CardFacts, DuplicateGroup
from data_prep.card.markup import bullets, table
from data_prep.card.samples_section import framed, labels_told
from data_prep.card.text import counted, escaped, percent
from pipeline.shards.task import Task

MAX_SHARED_ROWS = 30


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
        f"{table(columns, within, numbers={1, 2, 3})}</div>"
    )
    if across:
        shared = table(columns, across, numbers={1, 2, 3})
        parts.append(f"<div><h3>Samples that are also in another split</h3>{shared}</div>")
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


def _duplicate_group(facts: CardFacts, group: DuplicateGroup) -> str:
    rows = [
        f"{escaped(member.split)} {member.id:,} · {labels_told(facts, member)} ·"
        f' <span class="k">{escaped(member.source_key)}</span>'
        for member in group.members
    ]
    if (more := group.num_members - len(group.members)) > 0:
        rows.append(f"and {more:,} more")
    return f'<div class="group">{framed(facts, group.members[0])}<ul>{bullets(rows)}</ul></div>'
