"""Lion against the paper's algorithm in plain numpy, and what Lightning and checkpoints ask of an optimiser."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.training.optim_lion import Lion

RATE, BETAS, DECAY = 0.03, (0.9, 0.99), 0.2


def gradients() -> Iterator[np.ndarray]:
    generator = np.random.default_rng(0)
    while True:
        yield generator.normal(size=(4, 3)).astype(np.float32)


def by_hand(theta: np.ndarray, steps: int) -> np.ndarray:
    """Algorithm 2 of arXiv 2302.06675, line by line, in double precision."""
    momentum = np.zeros_like(theta)
    for _, gradient in zip(range(steps), gradients(), strict=False):
        update = BETAS[0] * momentum + (1 - BETAS[0]) * gradient
        theta = theta - RATE * (np.sign(update) + DECAY * theta)
        momentum = BETAS[1] * momentum + (1 - BETAS[1]) * gradient
    return theta


def trained(parameter: nn.Parameter, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step, gradient in zip(range(last), gradients(), strict=False):
        if step >= first:
            parameter.grad = torch.from_numpy(gradient)
            optimizer.step()


def make(values: torch.Tensor) -> tuple[nn.Parameter, Lion]:
    parameter = nn.Parameter(values.clone())
    return parameter, Lion([parameter], lr=RATE, betas=BETAS, weight_decay=DECAY)


def test_lion_is_the_papers_algorithm() -> None:
    start = torch.linspace(-1, 1, 12).reshape(4, 3)
    parameter, optimizer = make(start)
    trained(parameter, optimizer, 0, 50)
    np.testing.assert_allclose(parameter.detach().numpy(), by_hand(start.double().numpy(), 50), rtol=1e-5, atol=1e-6)


def test_every_weight_moves_by_the_rate_and_none_without_a_gradient() -> None:
    moved, still, zero = (nn.Parameter(torch.zeros(5)) for _ in range(3))
    optimizer = Lion([moved, still, zero], lr=RATE)
    moved.grad = torch.tensor([1e-30, -1e30, 1.0, -2.0, 3.0])
    zero.grad = torch.zeros(5)
    optimizer.step()
    assert moved.tolist() == pytest.approx([-RATE, RATE, -RATE, RATE, -RATE])
    assert still.tolist() == zero.tolist() == [0.0] * 5
    assert still not in optimizer.state


def test_the_closure_runs_with_gradients_and_its_loss_comes_back() -> None:
    parameter, optimizer = make(torch.ones(4, 3))

    def closure() -> torch.Tensor:
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 12
    assert bool((parameter < 1).all())


def test_a_state_that_was_stored_goes_on_bit_for_bit() -> None:
    whole, optimizer = make(torch.ones(4, 3))
    trained(whole, optimizer, 0, 20)
    first, optimizer = make(torch.ones(4, 3))
    trained(first, optimizer, 0, 7)
    second, other = make(first.detach())
    other.load_state_dict(optimizer.state_dict())
    trained(second, other, 7, 20)
    assert torch.equal(whole, second)
