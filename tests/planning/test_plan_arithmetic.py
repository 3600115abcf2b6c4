"""What follows from sizes and speeds: communication, memory by way, the largest batch."""

from __future__ import annotations

import dataclasses

import pytest

from pipeline.planning.communication import (
    break_even_slots,
    exposed_s,
    mlp_break_even_slots,
    ring_all_reduce_bytes,
    sharded_bytes,
)
from pipeline.planning.memory import ModelBytes, StepBytes, Way, largest_slots, rank_memory
from pipeline.planning.rows import count_text, duration_text, flop_text

MODEL = ModelBytes(weights=1000, gradients=1000, state=2000, average=0, update=40)
STEP = StepBytes(saved=600, forward=700, backward=650, evaluation=50, images=30)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_a_ring_sends_what_its_turns_send(ranks: int) -> None:
    """Played out: values go round in as many parts as ranks; each turn each rank passes one part on."""
    parts = [[float(rank * 10 + part) for part in range(ranks)] for rank in range(ranks)]
    sent = [0] * ranks
    for turn in range(2 * (ranks - 1)):
        moves = [(rank, (rank - turn) % ranks) for rank in range(ranks)]
        values = [parts[rank][part] for rank, part in moves]
        for (rank, part), value in zip(moves, values, strict=True):
            following = (rank + 1) % ranks
            parts[following][part] = parts[following][part] + value if turn < ranks - 1 else value
            sent[rank] += 1
    assert all(row == parts[0] for row in parts)
    assert parts[0] == [sum(rank * 10 + part for rank in range(ranks)) for part in range(ranks)]
    assert [ring_all_reduce_bytes(ranks, ranks=ranks)] * ranks == sent


def test_sharded_training_sends_one_and_a_half_times_as_much() -> None:
    replicated = ring_all_reduce_bytes(800, ranks=4)
    assert sharded_bytes(800, 800, ranks=4) == pytest.approx(1.5 * replicated)
    assert sharded_bytes(800, 800, ranks=4, micro_batches=2) == pytest.approx(2.5 * replicated)


@pytest.mark.parametrize("parameters", [1e3, 1e8, 175e9])
def test_the_break_even_batch_is_the_same_for_an_mlp_of_any_size(parameters: float) -> None:
    slots = break_even_slots(
        sent_bytes=ring_all_reduce_bytes(4 * parameters, ranks=8),
        flop_per_sample=6 * parameters,
        flops_per_s=60e12,
        bytes_per_s=200e9,
    )
    assert slots == pytest.approx(4 / 3 * 7 / 8 * 60e12 / 200e9)
    assert slots == pytest.approx(mlp_break_even_slots(ranks=8, flops_per_s=60e12, bytes_per_s=200e9))


def test_at_the_break_even_batch_sending_takes_as_long_as_computing() -> None:
    sent, flop = ring_all_reduce_bytes(4e6, ranks=4), 5e6
    slots = break_even_slots(sent_bytes=sent, flop_per_sample=flop, flops_per_s=1e12, bytes_per_s=1e9)
    assert slots * flop / 1e12 == pytest.approx(sent / 1e9)
    assert exposed_s(sent_s=3.0, backward_s=2.0) == 1.0
    assert exposed_s(sent_s=3.0, backward_s=4.0) == 0.0


def test_one_rank_holds_the_sum_of_its_parts() -> None:
    memory = rank_memory(MODEL, STEP, way=Way.plain, ranks=1)
    assert memory.moments == {"a step": 4730, "the update": 4070, "evaluation": 3080}
    assert (memory.peak_bytes, memory.peak_moment) == (4730, "a step")
    assert sum(memory.parts.values()) == 1000 + 1000 + 2000 + 600 + 30


def test_noise_of_the_largest_gradient_is_drawn_whole_before_the_update() -> None:
    noisy = dataclasses.replace(MODEL, noise=300)
    assert rank_memory(noisy, STEP, way=Way.plain, ranks=1).moments["the update"] == 4030 + 300
    assert rank_memory(noisy, STEP, way=Way.ddp, ranks=4).moments["the update"] == 4030 + 300
    # Sharded, a rank's part of it lies beside the whole.
    assert rank_memory(noisy, STEP, way=Way.fsdp, ranks=4).moments["the update"] == 1030 + 300 + 75


def test_a_replica_holds_what_one_rank_holds_and_a_shard_gathers_for_a_checkpoint() -> None:
    plain, ddp = (rank_memory(MODEL, STEP, way=way, ranks=ranks) for way, ranks in ((Way.plain, 1), (Way.ddp, 8)))
    assert ddp.parts == plain.parts
    buckets = MODEL.gradients
    assert ddp.moments == {**plain.moments, "evaluation": plain.moments["evaluation"] + buckets}
    accumulating = rank_memory(MODEL, STEP, way=Way.ddp, ranks=8, zeroed=False)
    assert accumulating.moments == {**ddp.moments, "a step": ddp.moments["a step"] + MODEL.gradients}
    rounded = rank_memory(MODEL, STEP, way=Way.ddp, ranks=8, compressed=500)
    assert rounded.moments == {**ddp.moments, "the exchange": 1000 + 2000 + 30 + 1000 + 500}
    for inside, gradients in ((False, 0), (True, 1000 // 8)):
        fsdp = rank_memory(MODEL, STEP, way=Way.fsdp, ranks=8, for_checkpoint=3000, gradients_stay=inside)
        assert fsdp.moments["a checkpoint"] == 3000 // 8 + 30 + 3000 + gradients
        assert fsdp.moments["evaluation"] == 3000 // 8 + 30 + 50 + gradients


def test_a_shard_goes_towards_what_is_gathered_and_kept_for_the_batch() -> None:
    step = StepBytes(saved=600, gathered=80, forward=700, backward=650, evaluation=50, images=30)
    whole = MODEL.weights + MODEL.gradients + MODEL.state
    for ranks in (1, 2, 4, 1000):
        memory = rank_memory(MODEL, step, way=Way.fsdp, ranks=ranks)
        assert memory.peak_bytes == whole // ranks + 700 + 30  # of the forward pass: the other begins without gradients
        assert memory.parts["weights gathered"] == 80
    kept = rank_memory(MODEL, StepBytes(**{**dataclasses.asdict(step), "backward": 1500}), way=Way.fsdp, ranks=2)
    assert kept.peak_bytes == (MODEL.weights + MODEL.state) // 2 + 1500 + 30


@pytest.mark.parametrize("room_bytes", [0, 10, 120, 130, 1000, 1019, 1020, 5000, 123_456])
@pytest.mark.parametrize("start", [1, 7, 4096])
def test_the_largest_batch_is_the_last_that_fits(room_bytes: int, start: int) -> None:
    def peak_at(slots: int) -> int:
        return max(100 + 20 * slots, 37 * slots - 400, 90 * slots - 3000)

    fitting = [slots for slots in range(1, 5000) if peak_at(slots) <= room_bytes]
    assert largest_slots(peak_at, room_bytes=room_bytes, start=start) == max(fitting, default=0)


def test_the_largest_batch_is_found_by_few_questions() -> None:
    asked = []

    def peak_at(slots: int) -> int:
        asked.append(slots)
        return 10**9 + 630_000 * slots

    assert largest_slots(peak_at, room_bytes=80e9, start=256) == (80 * 10**9 - 10**9) // 630_000
    assert len(asked) <= 5


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5e-6, "5 us"),
        (0.0431, "43.1 ms"),
        (1.0, "1 s"),
        (90, "90 s"),
        (7200, "2 h"),
        (864_000, "10 d"),
        (1e9, "11,574 d"),
    ],
)
def test_times_are_told_in_their_unit(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_numbers_are_told_in_words() -> None:
    assert count_text(174_600_000_000) == "175 billion"
    assert count_text(950) == "950"
    assert flop_text(749e6) == "749 MFLOP"
