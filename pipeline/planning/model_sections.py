"""Sections on the model: its size, the memory of a rank by part, and what other ways would take."""

from __future__ import annotations

from pipeline.planning.communication import ring_all_reduce_bytes, sharded_bytes
from pipeline.planning.flop import forward_flop, training_flop
from pipeline.planning.memory import RankMemory, Way, largest_slots
from pipeline.planning.planned import Planned, RankStudy
from pipeline.planning.rows import Row, Section, bytes_text, count_text, flop_text
from pipeline.trainer_config import GradientCompression


def model_section(planned: Planned) -> Section:
    """Parameters, and FLOP for a sample."""
    study, model = planned.study, planned.study.model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    training, counted = training_flop(model), study.flop_per_sample
    note = f"{parameters:,}" + (f", of which {trained:,} are trained" if trained < parameters else "")
    again = f", {flop_text(counted - training)} computed again among them" if counted > training else ""
    rows = [
        Row(name="parameters", value=count_text(parameters), note=note),
        Row(name="a sample, forward", value=flop_text(forward_flop(model)), note="2 a multiply-add, products alone"),
        Row(name="a sample, training", value=flop_text(counted), note=f"forward and backward{again}"),
    ]
    height, width, channels = planned.data.image_shape
    name = type(planned.config.model).__name__.removesuffix("Config")
    title = f"model: {name} of {height}x{width}x{channels} to {planned.data.num_classes:,} classes"
    return Section(title=title, rows=tuple(rows))


def memory_section(planned: Planned) -> Section:
    """What a rank holds, by part."""
    study = planned.study
    memory = study.memory()
    notes = {
        "activations": f"kept for the backward pass of {planned.batch.micro_slots_per_rank:,} samples",
        "images of batches": "of training and evaluation" if study.on_cpu else "as they come from the loader",
        "copy for checkpoints": "of rank 0, from the first one on; checkpoint.background=false: none",
        "optimiser state": type(planned.config.optimizer).__name__.removesuffix("Config"),
        "weights": _precision_note(study),
    }
    rows = [Row(name=name, value=bytes_text(size), note=notes.get(name, "")) for name, size in memory.parts.items()]
    rows.append(
        Row(
            name="passing tensors",
            value=bytes_text(memory.moments["a step"] - sum(memory.parts.values())),
            note="held for a moment of a step",
        )
    )
    rows.append(Row(name="in all, at the most", value=bytes_text(memory.peak_bytes), note=_moments(memory)))
    if not study.on_cpu:
        images = study.images_bytes(planned.batch.micro_slots_per_rank)
        note = "page-locked, beside the shards; of training and evaluation"
        rows.append(Row(name="and on its host, images", value=bytes_text(images), note=note))
        if study.copy_bytes:
            note = "rank 0's, page-locked, from the first one on; checkpoint.background=false: none"
            rows.append(Row(name="and on its host, copy", value=bytes_text(study.copy_bytes), note=note))
    return Section(title=f"memory of a rank, {study.way.value}{_recomputed(study.recomputed)}", rows=tuple(rows))


def other_ways_section(planned: Planned) -> Section:
    """The same training, its memory shared or saved otherwise; with `device_bytes` the largest batch of each."""
    study, room_bytes = planned.study, planned.config.device_bytes
    ways = [Way.plain] if study.way is Way.plain else [Way.ddp, Way.fsdp]
    rows = []
    for way in ways:
        for recomputed in (False, True) if study.blocks else (False,):
            note = "as planned" if (way, recomputed) == (study.way, study.recomputed) else ""
            if room_bytes is not None:
                found = _largest(planned, way=way, recomputed=recomputed)
                fits = f"up to {found:,} samples a rank fit {bytes_text(room_bytes)}" if found else "does not fit"
                note = f"{fits}, {note}" if note else fits
            peak = study.memory(way=way, recomputed=recomputed).peak_bytes
            rows.append(Row(name=f"{way.value}{_recomputed(recomputed)}", value=bytes_text(peak), note=note))
    return Section(title="at the most, by way", rows=tuple(rows))


def sent_bytes(planned: Planned) -> float:
    """Return what each rank sends for an update."""
    study = planned.study
    model = study.model_bytes
    halved = planned.config.trainer.gradient_compression is GradientCompression.bf16
    gradients = model.gradients * (0.5 if halved else 1.0)
    if study.way is Way.plain:
        return 0.0
    if study.way is Way.ddp:
        return ring_all_reduce_bytes(gradients, ranks=planned.config.world_size)
    return sharded_bytes(
        model.weights * (0.5 if study.bf16 else 1.0),
        gradients,
        ranks=study.shard_ranks,
        micro_batches=planned.batch.micro_batches,
    )


def _largest(planned: Planned, *, way: Way, recomputed: bool) -> int:
    study = planned.study
    assert planned.config.device_bytes is not None

    def peak_at(slots: int) -> int:
        return study.memory(way=way, recomputed=recomputed, slots=slots).peak_bytes

    return largest_slots(peak_at, room_bytes=planned.config.device_bytes, start=planned.batch.micro_slots_per_rank)


def _moments(memory: RankMemory) -> str:
    others = [f"{name} {bytes_text(size)}" for name, size in memory.moments.items() if name != memory.peak_moment]
    return f"in {memory.peak_moment}; {', '.join(others)}"


def _precision_note(study: RankStudy) -> str:
    if not study.bf16:
        return "float32"
    return "float32, gathered in bfloat16" if study.way is Way.fsdp else "bfloat16 copies count as activations"


def _recomputed(recomputed: bool) -> str:
    return ", activations computed again" if recomputed else ""
