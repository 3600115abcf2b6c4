"""What options sweep: values split as typed, crossed like nested loops, drawn as a pure function."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shards.errors import UserError
from pipeline.sweeping.axes import DrawnAxis, ListAxis, points, read_axis, read_swept, split_values


def values_of(option: str) -> list[str]:
    axis = read_axis(option)
    assert isinstance(axis, ListAxis)
    return [next(iter(point.values())) for point in axis.points]


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("a=1,2", ["1", "2"]),
        ("a=1, 2 ,3", ["1", "2", "3"]),
        ("model.hidden=[8,8],[16]", ["[8,8]", "[16]"]),
        ("a={x:1,y:2},{x:3,y:4}", ["{x:1,y:2}", "{x:3,y:4}"]),
        ("a='1,2',3", ["'1,2'", "3"]),
        ("a='it\\'s, so',b", ["'it\\'s, so'", "b"]),
        ("a=choice(sgd,adamw)", ["sgd", "adamw"]),
        ("seed=range(0,3)", ["0", "1", "2"]),
        ("seed=range(3)", ["0", "1", "2"]),
        ("a=range(10,1,-4)", ["10", "6", "2"]),
    ],
)
def test_lists_are_split_where_commas_stand_alone(option: str, values: list[str]) -> None:
    assert values_of(option) == values


@pytest.mark.parametrize("option", ["a=1", "a=", "a=[1,2]", "a='1,2'", "a={x:1,y:2}", "a=null", "data.path=a(b)c"])
def test_one_value_sweeps_nothing(option: str) -> None:
    assert read_axis(option) is None


@given(st.lists(st.text("abc019.[]_-", max_size=5).filter(lambda text: text.count("[") == text.count("]") == 0)))
def test_joined_values_split_again(values: list[str]) -> None:
    assert split_values(",".join(values)) == (values or [""])


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("a=1,,2", "a value is missing"),
        ("a=range(0,3,0)", "a step of 0"),
        ("a=range(3,0)", "has 0 values"),
        ("a=range(0.5,3)", "whole numbers"),
        ("a=range(x)", "numbers in the brackets"),
        ("a=uniform(2,1)", "the lower end first"),
        ("a=uniform(1)", "2 numbers in the brackets"),
        ("a=uniform(0,inf)", "2 numbers in the brackets"),
        ("a=log_uniform(0,1)", "over 0"),
        ("a=int_uniform(0.5,2)", "whole numbers"),
        ("a=range(0,10000000000)", "1 to 100000"),
    ],
)
def test_values_without_sense_are_refused_in_one_line(option: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        read_axis(option)
    assert "\n" not in str(error.value)


def test_lists_are_crossed_like_nested_loops() -> None:
    swept = read_swept(["x=1", "a=1,2", "b=p,q,r", "c=0,1"])
    assert swept.fixed == ("x=1",)
    expected = [{"a": a, "b": b, "c": c} for a in "12" for b in "pqr" for c in "01"]
    assert points(swept.axes) == expected


def test_nothing_swept_is_one_run() -> None:
    assert points(read_swept(["a=1"]).axes) == [{}]


def test_values_together_go_in_step_and_are_crossed_with_the_rest() -> None:
    swept = read_swept(["rate=1,2", "seed=0,1", "batch=10,20"], together=["rate", "batch"])
    expected = [{"rate": r, "batch": b, "seed": s} for r, b in (("1", "10"), ("2", "20")) for s in "01"]
    assert points(swept.axes) == expected
    with pytest.raises(UserError, match="rate has 2, batch has 3"):
        read_swept(["rate=1,2", "batch=1,2,3"], together=["rate", "batch"])
    with pytest.raises(UserError, match="batch is not swept by a list"):
        read_swept(["rate=1,2", "batch=1"], together=["rate", "batch"])


def test_an_option_given_twice_is_refused() -> None:
    for options in (["a=1,2", "a=3,4"], ["a=1,2", "a=3"]):
        with pytest.raises(UserError, match="a is given twice"):
            read_swept(options)


def test_draws_are_a_function_of_seed_name_and_sample_so_more_samples_keep_the_first() -> None:
    axes = read_swept(["rate=log_uniform(1e-4,1)", "decay=uniform(0,1)", "seed=0,1"]).axes
    few, many = points(axes, samples=3, seed=5), points(axes, samples=9, seed=5)
    assert many[: len(few)] == few
    assert len(many) == 18
    # Seeds of one sample share its draws; samples and options do not.
    assert all(few[2 * i]["rate"] == few[2 * i + 1]["rate"] for i in range(3))
    assert len({point["rate"] for point in many}) == 9
    assert points(axes, samples=3, seed=6) != few
    alone = points(read_swept(["rate=log_uniform(1e-4,1)"]).axes, samples=3, seed=5)
    assert [point["rate"] for point in alone] == [few[2 * i]["rate"] for i in range(3)]


def test_samples_and_draws_go_together() -> None:
    with pytest.raises(UserError, match=r"say how often with sweep\.samples"):
        points(read_swept(["rate=uniform(0,1)"]).axes)
    with pytest.raises(UserError, match="nothing is drawn"):
        points(read_swept(["rate=1,2"]).axes, samples=3)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("uniform", -1.0, 3.0), ("log_uniform", 1e-5, 1e-1), ("int_uniform", 1.0, 6.0), ("log_int_uniform", 4.0, 4096.0)],
)
def test_draws_have_their_distribution(kind: str, low: float, high: float) -> None:
    """Kolmogorov's distance to the wanted distribution; 2,000 draws exceed 0.05 once in 10,000 seeds or so."""
    axis = DrawnAxis(name="x", kind=kind, low=low, high=high)
    values = sorted(float(axis.draw(seed=1, sample=sample)) for sample in range(2000))
    assert low <= values[0]
    assert values[-1] <= high
    if kind == "int_uniform":
        counts = Counter(values)
        assert sorted(counts) == [1, 2, 3, 4, 5, 6]
        assert all(abs(count / 2000 - 1 / 6) < 0.04 for count in counts.values())
        return

    def share_below(value: float) -> float:
        if kind == "uniform":
            return (value - low) / (high - low)
        top = high + 1 if "int" in kind else high
        end = value + 1 if "int" in kind else value
        return math.log(end / low) / math.log(top / low)

    last = {value: (index + 1) / 2000 for index, value in enumerate(values)}
    assert max(abs(share_below(value) - share) for value, share in last.items()) < 0.05
