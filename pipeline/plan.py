"""`python -m pipeline.plan data.path=DIR order=window ...`: what a run would read, hold and cost, before it starts.

    plan = make_plan(config)                    # a few sections of a few rows
    sys.stdout.write(plan_text(plan))

No image is read and nothing is computed: data is known from its manifests, or stated; the step is rehearsed on the
meta device, where tensors have shapes and no content. A section is a function from a `Planned` to rows.
"""

from __future__ import annotations

import dataclasses
import logging
import sys

from pipeline.build_data import plan_batch
from pipeline.build_order import build_order, num_trained_on
from pipeline.compose import compose, help_text
from pipeline.data.host_load import host_load
from pipeline.plan_config import PLAN_SCHEMAS, PlanConfig
from pipeline.planning.data_facts import DataFacts, read_facts, stated_facts
from pipeline.planning.data_sections import reading_section, shuffle_section, steps_section
from pipeline.planning.model_sections import memory_section, model_section, other_ways_section
from pipeline.planning.planned import Planned, RankStudy
from pipeline.planning.rows import Section, plan_text
from pipeline.planning.time_sections import epoch_section, find_speeds, step_section
from pipeline.shards.errors import run_entry_point

SUMMARY = """Say what a run would read, hold, take and cost, before it starts.

  python -m pipeline.plan data.path=data/imagenet-64 order=window batch.size=1024 ranks=8 hosts=2
  python -m pipeline.plan samples=1000000000 image_shape=[64,64,3] classes=11230 batch.size=16384 ranks=64 hosts=8 \\
      flops_per_s=60e12 bandwidth_bytes_per_s=50e9 device_bytes=80e9 cost_per_hour=2

Options that training has mean what they mean there: type the command of training with `plan` for `train`, and add what
it is to run on. Sizes are in units of 1000; 2 FLOP are a multiply-add."""


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("plan", PLAN_SCHEMAS, summary=SUMMARY))
        return 0
    config: PlanConfig = compose("plan", PLAN_SCHEMAS, argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.stdout.write(plan_text(make_plan(config)))
    return 0


def make_plan(config: PlanConfig) -> list[Section]:
    """Return the plan's sections.

    Raises:
        UserError: no such data, or a batch that ranks or lanes do not divide: what the run itself would say.
    """
    planned = make_planned(config)
    speeds = find_speeds(planned)
    sections = [
        steps_section(planned),
        reading_section(planned),
        shuffle_section(planned),
        model_section(planned),
        memory_section(planned),
        other_ways_section(planned),
        step_section(planned, speeds),
        epoch_section(planned, speeds),
    ]
    return [section for section in sections if section is not None]


def make_planned(config: PlanConfig) -> Planned:
    """Return what sections look at; raises as `make_plan` does."""
    data = facts_of(config)
    batch = plan_batch(config, num_samples=data.num_samples, world_size=config.world_size)
    order = build_order(
        config.order,
        data=config.data,
        shard_counts=[counts.tolist() for counts in data.shard_counts],
        slots=batch.slots,
        seed=config.seed,
    )
    counts, hosts = data.all_shard_counts, config.hosts
    loads = tuple(
        host_load(order, shard_bytes=data.shard_bytes, shard_counts=counts, host=host, hosts=hosts)
        for host in range(hosts)
    )
    study = RankStudy(config, data, batch)
    return Planned(config=config, data=data, order=order, batch=batch, loads=loads, study=study)


def facts_of(config: PlanConfig) -> DataFacts:
    """Return the facts of the data that is there, or of that which is stated."""
    if config.samples is None:
        data = read_facts(config.data)
    else:
        height, width, channels = config.image_shape
        data = stated_facts(
            samples=config.samples,
            image_shape=(height, width, channels),
            num_classes=config.classes,
            shard_bytes=config.shard_bytes,
        )
    return dataclasses.replace(data, train_samples=num_trained_on(config.data, data.num_samples))


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
