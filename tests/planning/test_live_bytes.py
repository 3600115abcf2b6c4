"""Bytes that are alive, against what torch's own profiler sees a CPU allocate."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from allocations import allocated
from pipeline.model.bottleneck import bottleneck_mlp
from pipeline.model.mlp import mlp
from pipeline.planning.flop import forward_flop, training_flop
from pipeline.planning.live_bytes import LiveBytes
from pipeline.planning.rehearsal import META, Rehearsal, Task, on_the_line

IN, CLASSES, SLOTS = 48, 10, 512
MODELS = {
    "logistic regression": lambda: mlp(in_features=IN, widths=[], num_classes=CLASSES),
    "mlp": lambda: mlp(in_features=IN, widths=[256, 128], num_classes=CLASSES, activation="silu"),
    "batch norm": lambda: mlp(in_features=IN, widths=[256, 256], num_classes=CLASSES, norm="batch", dropout=0.1),
    "layer norm": lambda: mlp(in_features=IN, widths=[256], num_classes=CLASSES, norm="layer"),
    "bottleneck": lambda: bottleneck_mlp(in_features=IN, depth=3, width=64, num_classes=CLASSES),
}


def cross_entropy(logits_BK: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits_BK, labels_B, reduction="none")


def rehearsal_of(name: str, optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW) -> Rehearsal:
    with META:
        model = MODELS[name]()
    return Rehearsal(
        model,
        make_optimizer=lambda model: optimizer(model.parameters(), lr=0.1),
        task=Task(
            in_features=IN,
            make_labels=lambda slots: torch.empty(slots, dtype=torch.int64, device=META),
            losses=cross_entropy,
        ),
    )


@pytest.mark.parametrize("name", MODELS)
def test_passes_hold_what_a_cpu_allocates_for_them(name: str) -> None:
    passes = rehearsal_of(name).passes(slots=SLOTS, zeroed=True)
    torch.manual_seed(0)
    model = MODELS[name]()
    labels_B = torch.zeros(SLOTS, dtype=torch.int64)
    gradients = sum(parameter.nbytes for parameter in model.parameters())

    def forward() -> torch.Tensor:
        return cross_entropy(model(torch.randn(SLOTS, IN)), labels_B).sum()

    def step() -> None:
        model.zero_grad()
        forward().backward()

    step()
    peak, saved = allocated(forward)
    assert passes.forward_bytes == pytest.approx(peak + gradients + labels_B.nbytes, rel=0.01)
    assert passes.saved_bytes == pytest.approx(saved + labels_B.nbytes, rel=0.01)
    model.zero_grad()
    peak, _ = allocated(step)
    most = max(passes.forward_bytes - gradients, passes.backward_bytes)
    # A kernel may take a number a sample for itself.
    assert most == pytest.approx(peak + labels_B.nbytes, rel=0.01, abs=8 * SLOTS)


@pytest.mark.parametrize("name", MODELS)
def test_flop_are_those_that_torch_counts(name: str) -> None:
    model, rehearsal = MODELS[name](), rehearsal_of(name)
    counter = FlopCounterMode(display=False)
    with counter:
        logits_BK = model(torch.randn(SLOTS, IN))
    assert counter.get_total_flops() == SLOTS * forward_flop(model)
    with counter:
        cross_entropy(model(torch.randn(SLOTS, IN)), torch.zeros(SLOTS, dtype=torch.int64)).sum().backward()
    assert counter.get_total_flops() == SLOTS * training_flop(model)
    assert rehearsal.passes(slots=SLOTS, zeroed=True).product_flop == SLOTS * training_flop(model)
    assert logits_BK.shape == (SLOTS, CLASSES)


def test_a_frozen_body_costs_its_forward_pass() -> None:
    model = MODELS["bottleneck"]()
    *_, head = model.children()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in head.parameters():
        parameter.requires_grad_(True)
    with FlopCounterMode(display=False) as counter:
        cross_entropy(model(torch.randn(SLOTS, IN)), torch.zeros(SLOTS, dtype=torch.int64)).sum().backward()
    assert counter.get_total_flops() == SLOTS * training_flop(model)
    assert training_flop(model) == forward_flop(model) + 2 * 64 * CLASSES


@pytest.mark.parametrize(
    ("optimizer", "copies"), [(torch.optim.AdamW, 2), (torch.optim.SGD, 0), (torch.optim.Adagrad, 1)]
)
def test_the_optimisers_state_is_seen(optimizer: type[torch.optim.Optimizer], copies: int) -> None:
    rehearsal = rehearsal_of("mlp", optimizer)
    num_parameters = len(list(rehearsal.model.parameters()))
    assert rehearsal.state_bytes == pytest.approx(copies * rehearsal.gradient_bytes, abs=4 * num_parameters)


def test_kept_gradients_make_room_for_one_more_of_the_largest_weight() -> None:
    rehearsal = rehearsal_of("mlp")
    kept, zeroed = (rehearsal.passes(slots=2, zeroed=zeroed) for zeroed in (False, True))
    largest = max(parameter.nbytes for parameter in rehearsal.model.parameters())
    assert kept.forward_bytes == zeroed.forward_bytes
    assert kept.backward_bytes >= rehearsal.gradient_bytes + largest
    assert zeroed.backward_bytes <= kept.backward_bytes


@pytest.mark.parametrize("zeroed", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_passes_of_a_third_size_follow_from_two(name: str, zeroed: bool) -> None:
    known, fresh = rehearsal_of(name), rehearsal_of(name)
    first, second = (known.rehearse(slots=slots, zeroed=zeroed) for slots in (100, 200))
    for slots in (3, 300, 12_345):
        found = on_the_line(first, second, slots=slots)
        assert found is not None
        assert found.passes == fresh.rehearse(slots=slots, zeroed=zeroed).passes


def test_passes_that_did_other_things_are_on_no_line() -> None:
    first = rehearsal_of("mlp").rehearse(slots=100, zeroed=True)
    assert on_the_line(first, rehearsal_of("batch norm").rehearse(slots=200, zeroed=True), slots=300) is None
    crooked = dataclasses.replace(first, slots=200, forward=first.forward + 1)
    assert on_the_line(first, crooked, slots=300) is None


def test_a_tensor_counts_until_its_last_view_has_gone() -> None:
    with LiveBytes() as followed:
        whole = torch.empty(1000, device=META)
        part = whole[:10]
        assert followed.live_bytes == 4000
        del whole
        assert followed.live_bytes == 4000
        del part
    assert (followed.live_bytes, followed.peak_bytes) == (0, 4000)


def test_bytes_are_moved_by_what_reads_and_writes_them_and_by_nothing_else() -> None:
    with LiveBytes() as followed:
        left, right = torch.empty(30, 40, device=META), torch.empty(30, 40, device=META)
        _ = left.view(1200), left.t(), left.detach()[:2], left @ right.t()
        assert followed.moved_bytes == 0
        torch.relu(left)
        assert followed.moved_bytes == 2 * 4800
        left + right
        assert followed.moved_bytes == 5 * 4800
        left.add_(right)
        assert followed.moved_bytes == 8 * 4800
        left.sum()
        assert followed.moved_bytes == 9 * 4800 + 4
