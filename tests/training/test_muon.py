"""Muon against torch's own, against singular values in double precision, and AdamW's part against torch's AdamW."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.training.optim_muon import COEFFICIENTS, MuonAdamW, orthogonalise, step_size

SHAPES = [(8, 8), (8, 24), (24, 8), (8, 24)]


def matrices(seed: int, shapes: list[tuple[int, int]] = SHAPES) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def test_orthogonalise_maps_singular_values_by_the_published_polynomial() -> None:
    """An odd polynomial of a matrix acts on its singular values and leaves the singular vectors."""
    matrix = matrices(0, [(6, 10)])[0].double()
    a, b, c = COEFFICIENTS
    left, values, right = np.linalg.svd(matrix.numpy(), full_matrices=False)
    values = values / math.sqrt((values**2).sum())
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    expected = left @ np.diag(values) @ right
    np.testing.assert_allclose(orthogonalise(matrix).numpy(), expected, rtol=1e-9, atol=1e-9)
    stack = orthogonalise(torch.stack([matrix, -2 * matrix]))
    np.testing.assert_allclose(stack.numpy(), [expected, -expected], rtol=1e-9, atol=1e-9)


def test_the_direction_is_near_the_nearest_orthogonal_matrix_and_zero_stays_zero() -> None:
    stack = torch.stack(matrices(1, [(16, 64)] * 3))
    values = torch.linalg.svdvals(orthogonalise(stack))
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert bool((orthogonalise(torch.zeros(1, 3, 4)) == 0).all())


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("match_adamw", [True, False])
def test_muon_moves_matrices_as_torchs_own_does(match_adamw: bool, nesterov: bool) -> None:
    """torch's multiplies in bfloat16, whose rounding is 2**-9."""
    ours = [nn.Parameter(matrix) for matrix in matrices(2)]
    theirs = [nn.Parameter(matrix) for matrix in matrices(2)]
    options = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9, "nesterov": nesterov}
    optimizer = MuonAdamW([{"params": ours, "rule": "muon"}], match_adamw=match_adamw, **options)
    oracle = torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw" if match_adamw else "original", **options)
    for step in range(5):
        for mine, other, gradient in zip(ours, theirs, matrices(3 + step), strict=True):
            mine.grad, other.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        oracle.step()
    for mine, other, start in zip(ours, theirs, matrices(2), strict=True):
        moved, expected = mine.detach() - start, other.detach() - start
        assert (moved - expected).norm() < 0.03 * expected.norm()


def test_the_rest_moves_exactly_as_torchs_adamw_moves_it() -> None:
    shapes = [(5, 3), (7,)]
    ours = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    theirs = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    hidden = nn.Parameter(matrices(0)[0])
    optimizer = MuonAdamW(
        [{"params": [hidden], "rule": "muon"}, {"params": ours, "rule": "adamw"}],
        lr=0.01,
        betas=(0.8, 0.9),
        weight_decay=0.3,
        fused=True,
    )
    oracle = torch.optim.AdamW(theirs, lr=0.01, betas=(0.8, 0.9), weight_decay=0.3, fused=True)
    generator = torch.Generator().manual_seed(5)
    for _ in range(6):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        optimizer.step()
        oracle.step()
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))
    assert torch.equal(hidden, matrices(0)[0])


def test_a_step_that_matches_adamw_has_its_size_for_every_shape() -> None:
    """AdamW's updates have a root mean square of 0.2 to 0.4 of the rate (arXiv 2502.16982, section 2.2)."""
    for rows, columns in [(16, 16), (16, 64), (64, 16)]:
        direction = orthogonalise(torch.randn(1, min(rows, columns), max(rows, columns)))
        size = direction.square().mean().sqrt().item() * step_size(rows, columns, match_adamw=True)
        assert 0.15 < size < 0.25


def test_a_state_that_was_stored_goes_on_bit_for_bit() -> None:
    def make(values: list[torch.Tensor]) -> tuple[list[nn.Parameter], MuonAdamW]:
        parameters = [nn.Parameter(value.clone()) for value in values]
        groups = [{"params": parameters[:2], "rule": "muon"}, {"params": parameters[2:], "rule": "adamw"}]
        return parameters, MuonAdamW(groups, lr=0.01, weight_decay=0.1, fused=True)

    def train(parameters: list[nn.Parameter], optimizer: MuonAdamW, steps: range) -> None:
        for step in steps:
            for parameter, gradient in zip(parameters, matrices(step), strict=True):
                parameter.grad = gradient
            optimizer.step()

    whole, optimizer = make(matrices(0))
    train(whole, optimizer, range(9))
    first, optimizer = make(matrices(0))
    train(first, optimizer, range(4))
    second, other = make([parameter.detach() for parameter in first])
    other.load_state_dict(optimizer.state_dict())
    train(second, other, range(4, 9))
    assert all(torch.equal(one, two) for one, two in zip(whole, second, strict=True))


def test_what_muon_cannot_train_is_refused() -> None:
    vector = nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match="is no matrix"):
        MuonAdamW([{"params": [vector], "rule": "muon"}], lr=0.1)
    with pytest.raises(ValueError, match="rule='muno'"):
        MuonAdamW([{"params": [vector], "rule": "muno"}], lr=0.1)
