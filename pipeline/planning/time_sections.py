"""Sections on time: a step, its communication, an epoch's hours and cost, and whether the data keeps up.

A step is taken to be its matrix products at `flops_per_s`; its norms, activations and losses, which do little with what
they read and write, at `memory_bytes_per_s`; then what of the communication the backward pass does not hide, and the
update. Starts of kernels, and what the data needs on the device, are in none of these: with a data sheet's numbers the
forecast is a lower bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pipeline.planning.communication import break_even_slots, exposed_s, mlp_break_even_slots
from pipeline.planning.flop import forward_flop
from pipeline.planning.memory import Way
from pipeline.planning.model_sections import sent_bytes
from pipeline.planning.planned import Planned
from pipeline.planning.rows import Row, Section, bytes_text, count_text, duration_text, flop_text, times_text
from pipeline.planning.speeds import product_flops_per_s, update_bytes_per_s

# What a product is measured on at most, to be done in a second on a slow machine.
MEASURED_FLOP = 4e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """What a rank is taken to do; None: not known."""

    flops_per_s: float | None
    memory_bytes_per_s: float | None
    bandwidth_bytes_per_s: float | None
    measured: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Seconds of one update, by part; `sent_s` is None where the bandwidth is not known."""

    products_s: float
    others_s: float
    sent_s: float | None
    exposed_s: float
    update_s: float

    @property
    def step_s(self) -> float:
        return self.products_s + self.others_s + self.exposed_s + self.update_s


def find_speeds(planned: Planned) -> Speeds:
    """Return the stated speeds, and with `measure` those of this machine for what is not stated."""
    config = planned.config
    flops, memory, measured = config.flops_per_s, config.memory_bytes_per_s, None
    if config.measure and (flops is None or memory is None):
        on_gpu = torch.cuda.is_available() and not planned.study.on_cpu
        device = torch.device("cuda" if on_gpu else "cpu")
        measured = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} threads of this machine"
        if flops is None:
            flops = measured_flops(planned, device)
        memory = update_bytes_per_s(device=device) if memory is None else memory
    return Speeds(
        flops_per_s=flops,
        memory_bytes_per_s=memory,
        bandwidth_bytes_per_s=config.bandwidth_bytes_per_s,
        measured=measured,
    )


def step_time(planned: Planned, speeds: Speeds) -> StepTime | None:
    """Return the time of an update, None where `flops_per_s` is not known."""
    if speeds.flops_per_s is None:
        return None
    study, slots = planned.study, planned.slots_per_rank
    products_s = slots * study.flop_per_sample / speeds.flops_per_s
    backward_s = products_s - slots * forward_flop(study.model) / speeds.flops_per_s
    sent = sent_bytes(planned)
    sent_s = sent / speeds.bandwidth_bytes_per_s if speeds.bandwidth_bytes_per_s else None
    model, shards = study.model_bytes, study.shard_ranks if study.way is Way.fsdp else 1
    moved = (2 * model.gradients + model.gradients + 2 * model.state + 3 * model.average) / shards
    return StepTime(
        products_s=products_s,
        others_s=study.moved_bytes / speeds.memory_bytes_per_s if speeds.memory_bytes_per_s else 0.0,
        sent_s=sent_s if sent else 0.0,
        exposed_s=exposed_s(sent_s=sent_s or 0.0, backward_s=backward_s),
        update_s=moved / speeds.memory_bytes_per_s if speeds.memory_bytes_per_s else 0.0,
    )


def step_section(planned: Planned, speeds: Speeds) -> Section:
    """The time of an update, and what ranks send for it."""
    study, time, rows = planned.study, step_time(planned, speeds), []
    sent = sent_bytes(planned)
    if sent:
        collective = "all-reduce" if study.way is Way.ddp else "2 gathers of weights, 1 scatter of gradients"
        note = f"each way, by each rank, an update: {collective} in a ring"
        rows.append(Row(name="sent", value=bytes_text(sent), note=note))
    if time is None:
        rows.append(
            Row(name="time", value="not known", note="state flops_per_s=..., or measure=true to measure it here")
        )
        return Section(title="a step", rows=tuple(rows))
    flops = f"at {flop_text(speeds.flops_per_s or 0)}/s"
    rows.append(Row(name="matrix products", value=duration_text(time.products_s), note=flops))
    if speeds.memory_bytes_per_s:
        note = (
            f"norms, activations, losses: {bytes_text(study.moved_bytes)} at {bytes_text(speeds.memory_bytes_per_s)}/s"
        )
        rows.append(Row(name="everything else", value=duration_text(time.others_s), note=note))
    if sent:
        rows += _sending_rows(planned, speeds, time, sent)
    if speeds.memory_bytes_per_s:
        note = f"of weights and optimiser state, at {bytes_text(speeds.memory_bytes_per_s)}/s"
        rows.append(Row(name="update", value=duration_text(time.update_s), note=note))
    rate = planned.order.batch_size / time.step_s
    rows.append(Row(name="in all", value=duration_text(time.step_s), note=f"{count_text(rate)} images/s on all ranks"))
    return Section(title=f"a step{f', measured on {speeds.measured}' if speeds.measured else ''}", rows=tuple(rows))


def _sending_rows(planned: Planned, speeds: Speeds, time: StepTime, sent: float) -> list[Row]:
    if time.sent_s is None or not speeds.bandwidth_bytes_per_s or not speeds.flops_per_s:
        return [Row(name="sending", value="not known", note="state bandwidth_bytes_per_s=...")]
    after = f"{duration_text(time.exposed_s)} of it after the backward pass"
    note = f"at {bytes_text(speeds.bandwidth_bytes_per_s)}/s; {after}"
    rates = {"flops_per_s": speeds.flops_per_s, "bytes_per_s": speeds.bandwidth_bytes_per_s}
    slots = break_even_slots(sent_bytes=sent, flop_per_sample=planned.study.flop_per_sample, **rates)
    any_size = mlp_break_even_slots(ranks=planned.config.world_size, **rates)
    return [
        Row(name="sending", value=duration_text(time.sent_s), note=note),
        Row(
            name="break-even local batch",
            value=f"{math.ceil(slots):,}",
            note=f"here {planned.slots_per_rank:,}; of a replicated MLP of any size about {math.ceil(any_size):,}",
        ),
    ]


def epoch_section(planned: Planned, speeds: Speeds) -> Section | None:
    """Hours and cost, and whether the data keeps up."""
    config, time, steps = planned.config, step_time(planned, speeds), planned.order.steps_per_epoch
    if time is None:
        return None
    computing_s = steps * time.step_s
    supplies = _supplies(planned, computing_s)
    slowest = min(supplies, key=lambda supply: supply[1], default=None)
    epoch_s = computing_s / min(1.0, slowest[1] if slowest else 1.0)
    run_steps = steps * config.trainer.max_epochs
    run_steps = min(run_steps, config.trainer.max_steps or run_steps)
    run_s = epoch_s * run_steps / steps
    rows = [
        Row(name=f"data: {name}", value=times_text(ratio), note=f"of what is wanted: {wanted}")
        for name, ratio, wanted in supplies
    ]
    if not supplies:
        read = f"{bytes_text(planned.busiest.read_bytes / computing_s)}/s a host"
        note = f"images/s a rank, {read}; is that there? state loader_images_per_s=..., disk_bytes_per_s=..."
        rows.append(Row(name="data wanted", value=count_text(planned.slots_per_rank / time.step_s), note=note))
    cost = config.cost_per_hour
    for name, seconds in (("an epoch", epoch_s), (f"the run, {run_steps:,} steps", run_s)):
        hours = seconds / 3600 * config.world_size
        note = f"{hours:,.4g} rank-hours" + (f", cost {hours * cost:,.4g}" if cost else "")
        rows.append(Row(name=name, value=duration_text(seconds), note=note))
    bound = f"bounded by its {slowest[0]}" if slowest and slowest[1] < 1 else "without evaluation and checkpoints"
    return Section(title=f"an epoch, {bound}", rows=tuple(rows))


def _supplies(planned: Planned, computing_s: float) -> list[tuple[str, float, str]]:
    """Return (name, how many times what is wanted is there, what is wanted) of each stated supply of data."""
    config, supplies = planned.config, []
    if config.loader_images_per_s:
        wanted = planned.slots_per_rank * planned.order.steps_per_epoch / computing_s
        supplies.append(("loader", config.loader_images_per_s / wanted, f"{count_text(wanted)} images/s a rank"))
    if config.disk_bytes_per_s:
        wanted = planned.busiest.read_bytes / computing_s
        supplies.append(("disk", config.disk_bytes_per_s / wanted, f"{bytes_text(wanted)}/s a host"))
    return supplies


def measured_flops(planned: Planned, device: torch.device) -> float:
    """Measure the model's largest product, for as many samples as are done in no time."""
    weight = max((item for item in planned.study.model.parameters() if item.ndim == 2), key=torch.Tensor.numel)
    out_features, in_features = weight.shape
    most = max(1, int(MEASURED_FLOP / (6 * weight.numel()))) if device.type == "cpu" else 1 << 16
    return product_flops_per_s(
        in_features=in_features,
        out_features=out_features,
        slots=min(planned.batch.micro_slots_per_rank, most),
        bf16=planned.study.bf16,
        device=device,
    )
