"""What is swept, read from options as they are typed; which runs that makes is a pure function of them.

    swept = read_swept(["model=mlp", "optimizer.rate=0.01,0.1", "seed=range(0,3)"])
    swept.fixed                                       # ("model=mlp",)
    points(swept.axes)[0]                             # {"optimizer.rate": "0.01", "seed": "0"}; six of them

A value is swept where it has commas outside of brackets and quotes, or is one of

    choice(a,b)          a or b, like a,b
    range(0,5)           0, 1, 2, 3, 4; a third number is the step
    uniform(0,0.5)       drawn for each sample; log_uniform, int_uniform and log_int_uniform (ends included) too

Lists of values are crossed with each other; drawn ones are drawn together, once a sample (random search: Bergstra and
Bengio 2012, JMLR 13). A draw is a function of (seed, name, number of the sample): more samples leave the first ones
what they were.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.shards.errors import UserError
from pipeline.shards.keyed import make_key, random_bits

# Option name to its value as it would be typed.
Point = dict[str, str]

CALL = re.compile(r"(\w+)\((.*)\)", re.DOTALL)
OPENING, CLOSING, QUOTES = "([{", ")]}", "'\""
MAX_RANGE = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ListAxis:
    """Options that change together: one point a value; most axes have one option."""

    points: tuple[Point, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for point in self.points for name in point))


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnAxis:
    """An option that is drawn between two ends, whose kind is a key of DRAWS."""

    name: str
    kind: str
    low: float
    high: float

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def draw(self, *, seed: int, sample: int) -> str:
        """Return the value of a sample."""
        bits = random_bits(make_key("sweep", seed, self.name), np.array([sample]))
        share = float(int(bits[0]) >> 11) * 2.0**-53  # in [0, 1)
        return DRAWS[self.kind](share, self.low, self.high)


Axis = ListAxis | DrawnAxis


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """Typed options, sorted into those that all runs have and those that are swept."""

    fixed: tuple[str, ...]
    axes: tuple[Axis, ...]


def _log_between(share: float, low: float, high: float) -> float:
    return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))


# Four digits: what is run is what the table says and a person can type.
DRAWS: Mapping[str, Callable[[float, float, float], str]] = {
    "uniform": lambda share, low, high: f"{low + share * (high - low):.4g}",
    "log_uniform": lambda share, low, high: f"{_log_between(share, low, high):.4g}",
    "int_uniform": lambda share, low, high: str(int(low + math.floor(share * (high - low + 1)))),
    "log_int_uniform": lambda share, low, high: str(min(int(high), math.floor(_log_between(share, low, high + 1)))),
}


def read_swept(options: Sequence[str], *, together: Sequence[str] = ()) -> Swept:
    """Sort options into fixed and swept ones.

    Args:
        together: swept options whose values go in step (the first with the first, ...) instead of being crossed.

    Raises:
        UserError: an option that is swept twice, or whose values make no sense.
    """
    fixed, axes = [], []
    for option in options:
        axis = read_axis(option)
        if axis is None:
            fixed.append(option)
        else:
            axes.append(axis)
    for name in together:
        if not any(isinstance(axis, ListAxis) and axis.names == (name,) for axis in axes):
            raise UserError(f"sweep.together: {name} is not swept by a list of values, as {name}=a,b would")
    merged = _in_step(axes, together) if together else axes
    check_names(merged, fixed)
    return Swept(fixed=tuple(fixed), axes=tuple(merged))


def read_axis(option: str) -> Axis | None:
    """Return what one option sweeps; None: nothing, it has one value.

    Raises:
        UserError: a range or a draw whose numbers make no sense.
    """
    name, _, text = option.partition("=")
    if call := CALL.fullmatch(text):
        function, inside = call.groups()
        if function in DRAWS:
            low, high = _numbers(option, inside, wanted=(2,))
            return _drawn(option, name, function, low, high)
        if function == "range":
            return ListAxis(points=tuple({name: value} for value in _range(option, inside)))
        if function == "choice":
            return ListAxis(points=tuple({name: value} for value in split_values(inside)))
    values = split_values(text)
    if len(values) < 2:
        return None
    if "" in values:
        raise UserError(f"{option}: a value is missing between commas")
    return ListAxis(points=tuple({name: value} for value in values))


def split_values(text: str) -> list[str]:
    """Split at the commas that stand in no bracket and no quotes: "[8,8],16" is "[8,8]" and "16"."""
    values, depth, quote, start = [], 0, "", 0
    for index, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote and text[index - 1] != "\\" else quote
        elif sign in QUOTES:
            quote = sign
        elif sign in OPENING:
            depth += 1
        elif sign in CLOSING:
            depth -= 1
        elif sign == "," and depth == 0:
            values.append(text[start:index].strip())
            start = index + 1
    return [*values, text[start:].strip()]


def points(axes: Iterable[Axis], *, samples: int | None = None, seed: int = 0) -> list[Point]:
    """Return the options of each run: samples outermost, then lists in their order, the last one changing fastest.

    Raises:
        UserError: drawn options without a number of samples, or the other way round.
    """
    axes = list(axes)
    lists = [axis.points for axis in axes if isinstance(axis, ListAxis)]
    drawn = [axis for axis in axes if isinstance(axis, DrawnAxis)]
    if drawn and samples is None:
        raise UserError(f"{drawn[0].name} is drawn: say how often with sweep.samples=20")
    if samples is not None and not drawn:
        raise UserError(f"sweep.samples={samples}: nothing is drawn; optimizer.rate=log_uniform(1e-4,1e-1) would be")
    found = []
    for sample in range(samples or 1):
        draws = {axis.name: axis.draw(seed=seed, sample=sample) for axis in drawn}
        for chosen in itertools.product(*lists):
            merged = {name: value for point in chosen for name, value in point.items()} | draws
            # In the order in which the axes were typed.
            found.append({name: merged[name] for axis in axes for name in axis.names if name in merged})
    return found


def _in_step(axes: Sequence[Axis], together: Sequence[str]) -> list[Axis]:
    """Return the axes with those named in `together` as one, at the place of the first of them."""
    members = [axis for axis in axes if isinstance(axis, ListAxis) and axis.names[0] in together]
    lengths = {axis.names[0]: len(axis.points) for axis in members}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise UserError(f"sweep.together: as many values of each wanted; {told}")
    zipped = zip(*(axis.points for axis in members), strict=True)
    joined = ListAxis(points=tuple({n: v for point in parts for n, v in point.items()} for parts in zipped))
    return [joined if axis is members[0] else axis for axis in axes if axis is members[0] or axis not in members]


def check_names(axes: Sequence[Axis], fixed: Sequence[str]) -> None:
    """Refuse an option that is given twice, where one of the two would be lost in silence."""
    names = [name for axis in axes for name in axis.names]
    given = [option.partition("=")[0] for option in fixed]
    for name in names:
        if names.count(name) > 1 or name in given:
            raise UserError(f"{name} is given twice: once as what is swept; leave one out")


def _drawn(option: str, name: str, kind: str, low: float, high: float) -> DrawnAxis:
    if not low < high:
        raise UserError(f"{option}: the lower end first, then a higher one")
    if "log" in kind and low <= 0:
        raise UserError(f"{option}: ends over 0 wanted for a logarithm")
    if "int" in kind and not (low.is_integer() and high.is_integer()):
        raise UserError(f"{option}: whole numbers wanted")
    return DrawnAxis(name=name, kind=kind, low=low, high=high)


def _range(option: str, inside: str) -> list[str]:
    numbers = _numbers(option, inside, wanted=(1, 2, 3))
    if not all(number.is_integer() for number in numbers):
        raise UserError(f"{option}: whole numbers wanted")
    whole = [int(number) for number in numbers]
    if len(whole) == 3 and whole[2] == 0:
        raise UserError(f"{option}: a step of 0 leads nowhere")
    values = range(*whole)
    if not 1 <= len(values) <= MAX_RANGE:
        raise UserError(f"{option}: has {len(values)} values; 1 to {MAX_RANGE} wanted")
    return [str(value) for value in values]


def _numbers(option: str, inside: str, *, wanted: tuple[int, ...]) -> list[float]:
    try:
        numbers = [float(part) for part in inside.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in wanted or not all(map(math.isfinite, numbers)):
        raise UserError(f"{option}: {' or '.join(map(str, wanted))} numbers in the brackets wanted")
    return numbers
