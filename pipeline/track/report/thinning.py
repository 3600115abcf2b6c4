"""Long curves made short without hiding what happened: each stretch keeps its lowest and its highest value.

evenly(9, most=3)                                   # [0, 4, 8]
picked([0, 1, 9, 2, 3, 0, 1, 1], most=6)            # [0, 2, 4, 5, 7]: the spike of 9 stays
bucket_means([1, 2, 3, 4], [0, 2, 4, 6], buckets=2)     # [2, 4], [1.0, 5.0]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Values = Sequence[float | None]


def evenly(length: int, *, most: int) -> list[int]:
    """Return the places of at most `most` (2 or more) of so many things: the first, the last, and evenly between."""
    if length <= most:
        return list(range(length))
    return [round(place * (length - 1) / (most - 1)) for place in range(most)]


def picked(values: Values, *, most: int) -> list[int]:
    """Return the places of at most `most` (4 or more) values that stand for all, ascending.

    The first and the last stay; of each of equally long stretches the lowest and the highest; and where a stretch has
    values that were not finite, one of those, so that the gap is seen.
    """
    if len(values) <= most:
        return list(range(len(values)))
    per_bucket = 3 if None in values else 2
    chosen = {0, len(values) - 1}
    for bucket in _buckets(len(values), max(1, (most - 2) // per_bucket)):
        finite = [(value, place) for place in bucket if (value := values[place]) is not None]
        if finite:
            chosen |= {min(finite)[1], max(finite)[1]}
        if len(finite) < len(bucket):
            chosen.add(next(place for place in bucket if values[place] is None))
    return sorted(chosen)


def bucket_means(steps: Sequence[int], values: Values, *, buckets: int) -> tuple[list[int], list[float | None]]:
    """Return the last step of each of equally long stretches, and the mean of its finite values, None without one."""
    ends, means = [], []
    for bucket in _buckets(len(values), buckets):
        finite = [value for place in bucket if (value := values[place]) is not None]
        ends.append(steps[bucket[-1]])
        means.append(sum(finite) / len(finite) if finite else None)
    return ends, means


def _buckets(length: int, number: int) -> Iterator[range]:
    for bucket in range(number):
        stretch = range(bucket * length // number, (bucket + 1) * length // number)
        if stretch:
            yield stretch
