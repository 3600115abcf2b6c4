"""The study of units: shares of the gradient, rates that were tuned, and conclusions in both directions."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from made_runs import made_run
from pipeline.model.hidden_layer import HiddenLayer
from pipeline.model.mlp import mlp
from pipeline.studies.activations import (
    DEEP,
    DEPTHS,
    INITS,
    NORMED,
    RATES,
    SHALLOW,
    TUNING_SEED,
    best_rate,
    cases,
    follow_up,
    group_name,
    groups,
    measure,
)
from pipeline.studies.measures.layer_gradients import first_over_last, gradient_norms, share_passed
from pipeline.studies.study import ACCURACY, Scale, StudyRun, StudyRuns
from pipeline.studies.verdict import Verdict, verdict_of
from pipeline.track.plots import save_plot
from pipeline.track.run_reading import read_run
from runs import train_here
from tiny_data import prepare_here

# What the lecture says of each kind: share of the gradient that passes a layer, accuracy at 2 and at 32 layers.
TOLD = {
    "sigmoid": (0.235, 0.40, 0.10),
    "tanh": (0.9, 0.45, 0.35),
    "relu": (1.0, 0.47, 0.40),
    "gelu": (0.8, 0.47, 0.2),
    "softmax": (0.015, 0.10, 0.10),
    NORMED: (0.95, 0.0, 0.35),
}


def norms(share: float, depth: int) -> list[float]:
    """A layer's gradient is `share` of that of the layer behind it; the first layer, of another shape, has its own."""
    return [7.0, *(share ** (depth - 1 - layer) for layer in range(1, depth))]


def made(kind: str, depth: int, told: dict[str, tuple[float, float, float]], seed: int) -> StudyRun:
    share, shallow, deep = told[kind]
    gradients = {
        f"layers/weight_grad_norm/{layer}.linear": [norm, 99.0]
        for layer, norm in enumerate(norms(share * (1 + seed / 1000), depth))
    }
    accuracy = shallow + (deep - shallow) * DEPTHS.index(depth) / (len(DEPTHS) - 1)
    return made_run(
        group_name(kind, depth),
        config={"seed": seed, "model": {"depth": depth, "width": 64}},
        summary={ACCURACY: accuracy + seed / 1000},
        series=gradients,
    )


def runs_told(told: dict[str, tuple[float, float, float]]) -> StudyRuns:
    return StudyRuns(runs=[made(kind, depth, told, seed) for kind, depth in cases() for seed in range(3)])


@pytest.mark.parametrize("share", [0.25, 1.0, 1.1])
def test_the_share_is_that_by_which_gradients_were_made_to_shrink(share: float) -> None:
    assert share_passed(norms(share, 12)) == pytest.approx(share)
    assert first_over_last(norms(share, 12)) == pytest.approx(share**10)


def test_layers_without_a_gradient_have_no_share() -> None:
    vanished = [0.0] * 20 + norms(0.01, 12)[1:]
    assert share_passed(vanished) == pytest.approx(0.01)
    assert math.isnan(share_passed([0.0] * 31 + [1.0]))
    assert first_over_last(vanished) == 0


def test_the_claim_holds_of_what_the_lecture_tells_and_fails_of_its_opposite(tmp_path: Path) -> None:
    outcome = measure(runs_told(TOLD))
    assert verdict_of(outcome.checks) is Verdict.holds
    assert outcome.checks[0].estimate.value == pytest.approx(0.235 * 1.001)
    save_plot(tmp_path / "figure.png", outcome.picture.panels, title="", caption="")
    kinds = [row[0] for row in outcome.rows]
    assert kinds == [*INITS, NORMED]
    # Sigmoid units that pass all on and learn when deep, relu units that do what sigmoids were said to.
    swapped = TOLD | {"sigmoid": (1.0, 0.10, 0.40), "relu": (0.235, 0.1, 0.1), "softmax": (0.9, 0.5, 0.5)}
    assert verdict_of(measure(runs_told(swapped)).checks) is Verdict.fails


def test_of_the_rates_the_best_on_the_tuning_seed_is_taken() -> None:
    best = dict(zip(cases(), [RATES[(place + 1) % len(RATES)] for place in range(len(cases()))], strict=True))
    runs = [
        made_run(
            f"{kind}, tuning",
            config={"seed": TUNING_SEED},
            options={"optimizer.rate": rate} | ({} if kind == NORMED else {"model.depth": str(depth)}),
            summary={ACCURACY: 0.4 if rate == best[kind, depth] else 0.3},
        )
        for kind, depth in cases()
        for rate in RATES
    ]
    found = StudyRuns(runs=runs)
    assert {case: best_rate(found, *case) for case in cases()} == best
    reported = {group.name: group.options for group in follow_up(found, Scale.laptop, "0,1")}
    assert set(reported) == {group_name(*case) for case in cases()}
    for case, rate in best.items():
        assert {f"optimizer.rate={rate}", f"model.depth={case[1]}", "seed=0,1"} <= set(reported[group_name(*case)])
    assert all("seed=0,1" not in group.options for group in groups(Scale.laptop, "0,1"))


def test_equal_rates_are_decided_for_the_smallest() -> None:
    tuning, chance = {"seed": TUNING_SEED}, {ACCURACY: 0.1}
    runs = [
        made_run("relu, tuning", config=tuning, options={"optimizer.rate": rate, "model.depth": "2"}, summary=chance)
        for rate in RATES
    ]
    assert best_rate(StudyRuns(runs=runs), "relu", SHALLOW) == RATES[0]


@pytest.mark.parametrize("kind", ["sigmoid", "relu"])
def test_the_share_of_a_deep_net_is_what_its_slopes_make_it(kind: str) -> None:
    """Oracle: the mean slope of the units themselves, whose weights neither add nor take away."""
    torch.manual_seed(3)
    model = mlp(in_features=192, widths=[64] * DEEP, num_classes=10, activation=kind, init=INITS[kind])
    pixels_BD = torch.randn(64, 192, generator=torch.Generator().manual_seed(0))
    slopes: list[float] = []

    def see(layer: HiddenLayer, inputs: tuple[torch.Tensor], _: torch.Tensor) -> None:
        inner_BD = layer.linear(inputs[0]).detach()
        slope_BD = inner_BD.sigmoid() * (1 - inner_BD.sigmoid()) if kind == "sigmoid" else (inner_BD > 0).double()
        gain = 1 if kind == "sigmoid" else 2  # of the variance of the weights, times the width
        slopes.append(math.sqrt(gain * float(slope_BD.square().mean())))

    for layer in range(DEEP):
        model[layer].register_forward_hook(see)
    torch.nn.functional.cross_entropy(model(pixels_BD), torch.arange(64) % 10).backward()
    found = [float(model[layer].linear.weight.grad.norm()) for layer in range(DEEP)]
    assert share_passed(found) == pytest.approx(sum(slopes) / DEEP, rel=0.1)


@pytest.mark.slow
def test_gradients_are_read_at_the_first_step_input_to_output(tmp_path: Path) -> None:
    data = prepare_here(tmp_path / "data", "source=points", "source.samples=100", "source.val_samples=20")
    options = ("model=mlp", "model.depth=3", "model.width=8", "model.activation=sigmoid", "model.init=xavier")
    train_here(data.root, tmp_path / "run", *options, "track.layers_every_steps=1000", "trainer.max_steps=3")
    record = read_run(tmp_path / "run")
    run = StudyRun(group="", options={}, record=record)
    rows = record.series["layers/weight_grad_norm/0.linear"]
    assert rows.steps == [1, 3]
    # Sigmoid units pass on a quarter at most: of the two layers whose matrices are square, the one behind has more.
    _, second, third = gradient_norms(run)
    assert 0 < second < third / 2
    assert second == record.series["layers/weight_grad_norm/1.linear"].values[0]
