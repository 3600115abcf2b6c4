"""Norms of parts' gradients against torch's own per-sample gradients; nothing of training changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional

from pipeline.data.mixup import mix_neighbours
from pipeline.model.blocks import wrappable_blocks
from pipeline.model.bottleneck import bottleneck_mlp
from pipeline.model.mlp import mlp
from pipeline.model.perceptron import perceptron
from pipeline.training.initial import freeze_body
from pipeline.training.objective import cross_entropy
from pipeline.training.part_gradients import PartNorms, PassNorms, SampleNorms, why_not_by_sample
from pipeline.training.recompute import checkpoint_activations

D, K, B = 12, 5, 16
MODELS: dict[str, Callable[[], nn.Module]] = {
    "logistic regression": lambda: mlp(in_features=D, widths=[], num_classes=K),
    "mlp": lambda: mlp(in_features=D, widths=[9, 7], num_classes=K, activation="tanh"),
    "layer norm and skip": lambda: mlp(in_features=D, widths=[9, 9], num_classes=K, norm="layer", skip=True),
    "rms norm and base width": lambda: mlp(in_features=D, widths=[8], num_classes=K, norm="rms", base_width=2),
    "bottleneck": lambda: bottleneck_mlp(in_features=D, depth=2, width=6, num_classes=K),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(3)
    model = MODELS[name]()
    with torch.no_grad():  # gains of 1 and offsets of 0 would hide that they count
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return pixels (B, D), labels (B,) and weights (B,), the last two samples being padding."""
    generator = torch.Generator().manual_seed(5)
    weights_B = torch.ones(B)
    weights_B[-2:] = 0
    return (
        torch.randn(B, D, generator=generator),
        torch.randint(K, (B,), generator=generator),
        weights_B,
    )


def gradients_by_sample(
    model: nn.Module, pixels_BD: torch.Tensor, labels_B: torch.Tensor, weights_B: torch.Tensor
) -> torch.Tensor:
    """Return (B, parameters), each sample's own gradient, by torch.func."""
    trained = {name: one.detach() for name, one in model.named_parameters() if one.requires_grad}

    def loss(values: dict[str, torch.Tensor], pixels_D: torch.Tensor, label: torch.Tensor, weight: torch.Tensor):
        logits_K = torch.func.functional_call(model, values, (pixels_D[None],))[0]
        return weight * functional.cross_entropy(logits_K, label)

    rows = torch.func.vmap(torch.func.grad(loss), (None, 0, 0, 0))(trained, pixels_BD, labels_B, weights_B)
    return torch.cat([row.flatten(1) for row in rows.values()], dim=1)


def followed(parts: PartNorms, model: nn.Module, *, passes: int = 1, autocast: bool = False) -> list[float]:
    """Return what `parts` sums over a batch that is passed in so many parts."""
    parts.start()
    for pixels_BD, labels_B, weights_B in zip(*(values.chunk(passes) for values in batch()), strict=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            losses_B = cross_entropy(model(pixels_BD), labels_B)
        (losses_B * weights_B).sum().backward()
        parts.add_pass(weights_B)
    return parts.stop().tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_samples_norms_are_those_of_their_own_gradients(name: str, passes: int) -> None:
    model = made(name)
    expected = gradients_by_sample(model, *batch()).square().sum().item()
    assert followed(SampleNorms(model), model, passes=passes) == pytest.approx([expected, B - 2], rel=1e-5)


@pytest.mark.parametrize("name", ["mlp", "layer norm and skip", "bottleneck"])
def test_what_is_computed_again_in_the_backward_pass_counts_once(name: str) -> None:
    model = made(name)
    expected = followed(SampleNorms(model), model)
    checkpoint_activations(wrappable_blocks(model))
    assert followed(SampleNorms(model), model) == pytest.approx(expected, rel=1e-6)


def test_of_a_frozen_body_the_head_alone_counts() -> None:
    model = made("layer norm and skip")
    freeze_body(model)
    expected = gradients_by_sample(model, *batch()).square().sum().item()
    assert followed(SampleNorms(model), model) == pytest.approx([expected, B - 2], rel=1e-5)


def test_a_bias_or_a_weight_that_stays_does_not_count() -> None:
    for name in ("0.linear.bias", "1.linear.weight"):
        model = made("mlp")
        model.get_parameter(name).requires_grad_(False)
        expected = gradients_by_sample(model, *batch()).square().sum().item()
        assert followed(SampleNorms(model), model) == pytest.approx([expected, B - 2], rel=1e-5)


def test_in_bfloat16_norms_are_right_to_its_rounding() -> None:
    model = made("bottleneck")
    expected = gradients_by_sample(model, *batch()).square().sum().item()
    assert followed(SampleNorms(model), model, autocast=True) == pytest.approx([expected, B - 2], rel=0.03)


@pytest.mark.parametrize("name", MODELS)
def test_pairs_norms_are_those_of_their_sums(name: str) -> None:
    """As mixup's pairs, which hold the same two images."""
    model = made(name)
    rows = gradients_by_sample(model, *batch())
    expected = rows.view(B // 2, 2, -1).sum(dim=1).square().sum().item()
    assert followed(SampleNorms(model, samples_per_part=2), model) == pytest.approx([expected, 2 * (B - 2)], rel=1e-5)


def test_blended_neighbours_are_pairs_and_nothing_else_is_tied() -> None:
    """Another image in slot 5 changes what slots 4 and 5 are trained on."""
    pixels_BD, _, _ = batch()
    own_B = torch.linspace(0.1, 0.9, B)
    blended = mix_neighbours(pixels_BD.clone(), own_B)
    pixels_BD[5] += 1
    changed = (mix_neighbours(pixels_BD.clone(), own_B) != blended).any(dim=1)
    assert changed.nonzero()[:, 0].tolist() == [4, 5]


@pytest.mark.parametrize("passes", [1, 4])
def test_passes_norms_are_those_of_their_gradients_before_they_are_added(passes: int) -> None:
    model = made("mlp")
    rows = gradients_by_sample(model, *batch())
    sums = torch.stack([part.sum(dim=0) for part in rows.chunk(passes)])
    counts = [float(weights_B.sum()) for weights_B in batch()[2].chunk(passes)]
    expected = [sums.square().sum().item(), sum(count**2 for count in counts)]
    assert followed(PassNorms(model), model, passes=passes) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's own, while it traces
def test_a_compiled_models_passes_are_followed_without_compiling_it_again() -> None:
    """Traced as for the compiler, which itself is left out."""
    torch._dynamo.reset()
    model, compiled = made("mlp"), made("mlp")
    expected = followed(PassNorms(model), model, passes=2)
    counts = CompileCounterWithBackend("aot_eager")
    compiled.compile(backend=counts, fullgraph=True)
    cross_entropy(compiled(batch()[0][: B // 2]), batch()[1][: B // 2]).sum().backward()
    compiled.zero_grad()
    before = counts.frame_count
    assert followed(PassNorms(compiled), compiled, passes=2) == pytest.approx(expected, rel=1e-6)
    assert counts.frame_count == before > 0


@pytest.mark.parametrize("kind", [SampleNorms, PassNorms])
@pytest.mark.parametrize("name", ["layer norm and skip", "bottleneck"])
def test_the_gradient_is_the_same_to_the_last_bit_and_no_hook_stays(
    name: str, kind: type[SampleNorms] | type[PassNorms]
) -> None:
    model, plain = made(name), made(name)
    followed(kind(model), model, passes=2)
    for pixels_BD, labels_B, weights_B in zip(*(values.chunk(2) for values in batch()), strict=True):
        (cross_entropy(plain(pixels_BD), labels_B) * weights_B).sum().backward()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(parameter._backward_hooks for parameter in model.parameters())


def test_what_ties_samples_together_or_shows_none_is_named() -> None:
    assert all(why_not_by_sample(made(name)) is None for name in MODELS)
    assert why_not_by_sample(perceptron(in_features=D, num_classes=K)) is None
    tied = mlp(in_features=D, widths=[8], num_classes=K, norm="batch")
    assert "batch norm" in str(why_not_by_sample(tied))
    compiled = made("mlp")
    compiled.compile(backend="eager")
    assert "compiled" in str(why_not_by_sample(compiled))
    assert "Conv1d" in str(why_not_by_sample(nn.Sequential(nn.Conv1d(1, 1, 1), nn.Linear(4, 2))))
