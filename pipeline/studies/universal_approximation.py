"""One hidden layer comes as near to a continuous function as wanted: by width, and by samples where these are noisy.

Cybenko 1989 (doi 10.1007/BF02551274) and Hornik 1991 (doi 10.1016/0893-6080(91)90009-T) say that wide enough networks
of one hidden layer exist that are near; Barron 1993 (doi 10.1109/18.256500) how wide: for a function whose Fourier
transform falls fast enough the error falls at least as 1/sqrt(width), whatever the number of variables. None of them
says that training finds such a network. Here it is trained, on two functions: of one variable (waves) and of two
(hills). The error has two parts that are kept apart: of too few units, measured at plentiful samples without noise,
and of too few samples, measured at one width and noisy targets. All errors are distances from the function itself.

The rate holds for all widths by the maximal-update parametrisation; each seed has its own samples and weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pipeline.studies.estimate import Estimate, mean_of, slope_of
from pipeline.studies.measures.function_fits import fit_of, fit_series, samples_of
from pipeline.studies.panels.spread import spread_series
from pipeline.studies.study import Group, Outcome, Picture, Scale, Study, StudyRun, StudyRuns, spread_text
from pipeline.studies.verdict import Check
from pipeline.track.plots import Axis, Mark, Panel, Series, seeds_text

WIDTH, SAMPLES, SQUARED_ERROR = "model.hidden", "data.train_samples", "val/mse"
# And of how many variables each is.
FUNCTIONS: Mapping[str, str] = {"waves": "one variable", "hills": "two variables"}
NOISY, LINEAR = "noisy waves", "linear, waves"
WIDTHS = {Scale.laptop: [2**k for k in range(8)], Scale.gpu: [2**k for k in range(13)]}
NUMBERS = {Scale.laptop: [2**k for k in range(6, 13)], Scale.gpu: [2**k for k in range(6, 17)]}
# As the data sets of noisy waves are made.
NOISE_STD = 0.3
# What Barron's bound says of widths, and what averaging says of samples.
BARRON, AVERAGING = -0.5, -0.5


def groups(scale: Scale, seeds: str) -> Sequence[Group]:
    steps, fixed_width = (2_000, 32) if scale is Scale.laptop else (20_000, 64)
    noisy = "function-noisy" if scale is Scale.laptop else "function-noisy-many"
    plain = (
        *(f"seed={seeds}", "objective=mse", "augment=none", "optimizer=adamw", "optimizer.weight_decay=0"),
        *("schedule=cosine", "trainer.max_epochs=100000", "evaluation.every_epochs=100000"),
        *("track.layers_every_steps=null", "track.noise_scale_every_steps=null", "track.gap=false"),
        *("checkpoint.keep=1", "trainer.log_every_steps=200"),
    )
    hidden = (
        *("model=mlp", "model.activation=tanh", "model.init=kaiming", "model.base_width=8", "optimizer.rate=0.2"),
        f"trainer.max_steps={steps}",
    )
    widths = ",".join(f"[{width}]" for width in WIDTHS[scale])
    numbers = ",".join(map(str, NUMBERS[scale]))
    linear = ("model=logistic_regression", "optimizer.rate=0.02", "batch.size=256", "trainer.max_steps=500")
    return [
        *(
            Group(
                name=name,
                data=f"function-{name}",
                options=(*plain, *hidden, "batch.size=256", f"{WIDTH}={widths}"),
            )
            for name in FUNCTIONS
        ),
        Group(name=LINEAR, data="function-waves", options=(*plain, *linear)),
        Group(
            name=NOISY,
            data=noisy,
            options=(
                *(*plain, *hidden, "batch.size=64", f"{WIDTH}=[{fixed_width}]"),
                *("data.subset_seed=${seed}", f"{SAMPLES}={numbers}"),
            ),
        ),
    ]


def measure(runs: StudyRuns) -> Outcome:
    errors = {name: _errors(runs, name, WIDTH) for name in FUNCTIONS}
    by_samples = _errors(runs, NOISY, SAMPLES)
    linear = [math.sqrt(value) for value in runs.values(LINEAR, SQUARED_ERROR)]
    widest = max(errors["waves"])
    farthest = [fit_of(run).farthest for run in _of(runs, "waves", widest)]
    ratios = [line / wide for line, wide in zip(linear, errors["waves"][widest], strict=True)]
    checks = [
        *(
            Check(
                claim=f"For a function of {told} the error falls with width at least as 1/sqrt(width).",
                statistic=f"exponent of the error in the width, {name}",
                estimate=_exponent(errors[name]),
                below=BARRON,
            )
            for name, told in FUNCTIONS.items()
        ),
        Check(
            claim=f"{widest} hidden units are nowhere further than 0.1 from a function with values from -0.9 to 0.5.",
            statistic=f"largest distance anywhere, {widest} units, waves",
            estimate=mean_of(farthest),
            below=0.1,
        ),
        Check(
            claim="Without a hidden layer the error is more than ten times as large.",
            statistic=f"error of a linear model over that of {widest} hidden units, waves",
            estimate=mean_of(ratios),
            above=10.0,
        ),
        Check(
            claim="At one width the error of too few noisy samples falls about as 1/sqrt(samples).",
            statistic="exponent of the error in the number of samples, noisy waves",
            estimate=_exponent(by_samples),
            above=AVERAGING - 0.2,
            below=AVERAGING + 0.2,
        ),
    ]
    rows = [
        *(
            [name, "all, without noise", width, spread_text(values, decimals=4), len(values)]
            for name in FUNCTIONS
            for width, values in errors[name].items()
        ),
        ["waves", "all, without noise", "none (linear)", spread_text(linear, decimals=4), len(linear)],
        *(
            [NOISY, number, _width_of(_of(runs, NOISY, number)[0]), spread_text(values, decimals=4), len(values)]
            for number, values in by_samples.items()
        ),
    ]
    return Outcome(
        checks=checks,
        picture=_picture(runs, errors, by_samples, linear),
        columns=["function", "samples", "hidden units", "error (root mean square, mean ± sd)", "seeds"],
        rows=rows,
        notes=_notes(errors, by_samples, round(runs.of(NOISY)[0].metric("parameters"))),
    )


def _width_of(run: StudyRun) -> int:
    return int(run.record.config["model"]["hidden"][0])


def _of(runs: StudyRuns, group: str, value: int) -> list[StudyRun]:
    option = {SAMPLES: str(value)} if group == NOISY else {WIDTH: f"[{value}]"}
    return runs.of(group, option)


def _errors(runs: StudyRuns, group: str, option: str) -> dict[int, list[float]]:
    """Return root mean square errors by seed, for each value of the option, ascending."""
    values = sorted({int(run.options[option].strip("[]")) for run in runs.of(group)})
    return {value: [math.sqrt(run.metric(SQUARED_ERROR)) for run in _of(runs, group, value)] for value in values}


def _exponent(errors: dict[int, list[float]]) -> Estimate:
    return slope_of(list(errors), list(zip(*errors.values(), strict=True)), log=True)


def _picture(
    runs: StudyRuns, errors: dict[str, dict[int, list[float]]], by_samples: dict[int, list[float]], linear: list[float]
) -> Picture:
    widths, numbers = list(errors["waves"]), list(by_samples)
    shown = [widths[1], widths[3], widths[-1]]
    seeds = [run.seed for run in _of(runs, "waves", widths[0])]
    width = _width_of(_of(runs, NOISY, numbers[0])[0])
    caption = (
        f"Left: the function in black, trained networks of seed {seeds[0]} in colour, each of one hidden layer of tanh"
        " units. Right: root mean square distance from the function on new points; all axes are logarithmic."
        f" {seeds_text(seeds)}, bars: lowest to highest seed; grey: falling as 1/sqrt(width), 1/sqrt(samples)."
        f" Above: samples without noise; below: noise of standard deviation {NOISE_STD}, {width} units."
    )
    error = Axis(label="distance from the function", log=True)
    few, many = (_of(runs, NOISY, number)[0] for number in (numbers[0], numbers[-1]))
    levels_N, targets_N = samples_of(few, "train")
    return Picture(
        title="A hidden layer approximates a continuous function",
        caption=caption,
        panels=[
            Panel(
                x=Axis(label="x"),
                y=Axis(label="value"),
                series=fit_series({f"{width} units": _of(runs, "waves", width)[0] for width in shown}),
                title="Waves: networks by width",
            ),
            Panel(
                x=Axis(label="hidden units", log=True, ticks={float(width): str(width) for width in widths}),
                y=error,
                series=[
                    *(_line(errors[name], label=f"{name}, {told}") for name, told in FUNCTIONS.items()),
                    _guide(errors["waves"], exponent=BARRON),
                ],
                marks=[Mark(y=sum(linear) / len(linear), label="waves, linear model")],
                title="Error of too few units",
            ),
            Panel(
                x=Axis(label="x"),
                y=Axis(label="value"),
                series=[
                    *fit_series({f"{numbers[0]} samples": few, f"{numbers[-1]:,} samples": many}),
                    Series(
                        x=(levels_N / 255).tolist(),
                        y=targets_N.tolist(),
                        label=f"the {numbers[0]} samples",
                        line=False,
                        faint=True,
                        colour=1,
                    ),
                ],
                title="Noisy waves: networks by samples",
            ),
            Panel(
                x=Axis(label="samples", log=True, ticks={float(number): f"{number:,}" for number in numbers}),
                y=error,
                series=[
                    _line(by_samples, label=f"noisy waves, {width} units"),
                    _guide(by_samples, exponent=AVERAGING),
                ],
                title="Error of too few samples",
            ),
        ],
    )


def _line(errors: dict[int, list[float]], *, label: str) -> Series:
    return spread_series(list(errors), list(errors.values()), label=label)


def _guide(errors: dict[int, list[float]], *, exponent: float) -> Series:
    """Return a power law through the first error."""
    first, values = next(iter(errors.items()))
    start = sum(values) / len(values)
    return Series(
        x=list(errors),
        y=[start * (place / first) ** exponent for place in errors],
        markers=False,
        faint=True,
        colour=6,
    )


def _notes(
    errors: dict[str, dict[int, list[float]]], by_samples: dict[int, list[float]], num_weights: int
) -> list[str]:
    widths, numbers = list(errors["waves"]), list(by_samples)
    falls = {name: sum(values[min(values)]) / sum(values[max(values)]) for name, values in errors.items()}
    middle, most = numbers[len(numbers) // 2], numbers[-1]
    free = {number: _free_numbers(number, by_samples[number]) for number in (middle, most)}
    slower = free[most] > 1.05 * free[middle]
    why = (
        "with more samples the network makes use of more of its weights, so that the error falls more slowly than"
        " 1/sqrt(samples)"
        if slower
        else "the number does not grow with the samples, so nothing slows the fall"
    )
    return [
        f"From {widths[0]} to {widths[-1]} units the error falls {falls['waves']:.0f} times for waves and"
        f" {falls['hills']:.0f} times for hills; 1/sqrt(width) would be {math.sqrt(widths[-1] / widths[0]):.0f} times."
        " Theorems promise that weights exist, not that they are found: what is left is in part training's.",
        f"In a model of k free numbers noise of {NOISE_STD} leaves an error of {NOISE_STD} sqrt(k / samples). By the"
        f" errors k is {free[middle]:.0f} at {middle:,} samples and {free[most]:.0f} at {most:,}, of {num_weights}"
        f" weights: {why}.",
    ]


def _free_numbers(num_samples: int, errors: Sequence[float]) -> float:
    """Return the k of error = noise sqrt(k / samples), by the mean over seeds of the squared error."""
    return num_samples * sum(error**2 for error in errors) / len(errors) / NOISE_STD**2


STUDY = Study(
    name="universal-approximation",
    title="One hidden layer approximates any continuous function",
    claim="A network of one hidden layer comes as near to a continuous function as wanted, given units and samples.",
    question="How does the error fall with the width, and how with the number of samples?",
    groups=groups,
    measure=measure,
    seeds={Scale.laptop: 3, Scale.gpu: 5},
)
