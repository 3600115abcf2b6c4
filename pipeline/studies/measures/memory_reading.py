"""What a run read and what memory that took, from its folder: for the study of data larger than memory.

    reading = read_back(run)
    reading.read_mb[9], reading.memory_mb[9]        # 55.2 MB read by the tenth row, 431 MB of memory at most by then

Memory is that of the process, mapped pages included, as the highest value so far, so that no row misses a peak.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.shards.manifest import read_data_set
from pipeline.studies.study import StudyRun

MEMORY, LOSS = "mem/rss_bytes", "train/loss"
MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a run read, and what memory it took.

    Attributes:
        read_mb: of images and their labels, in training up to each row.
        memory_mb: the highest so far, at each row.
        epoch_mb: of the split that it is trained on.
        num_not_once: pairs of a sample and an epoch in which it was not read once.
    """

    read_mb: Sequence[float]
    memory_mb: Sequence[float]
    epoch_mb: float
    num_not_once: int

    @property
    def peak_mb(self) -> float:
        return self.memory_mb[-1]


def read_back(run: StudyRun) -> Reading:
    """Return what a run's folder tells of its reading."""
    config = run.record.config
    split = read_data_set(Path(config["data"]["path"])).split(config["data"]["train_split"])
    split_mb = sum(shard.size_bytes for shard in split.shards) / MB
    image_mb = split_mb / split.num_samples
    memory = run.logged(MEMORY)
    batch = config["batch"]["size"]
    return Reading(
        read_mb=[step * batch * image_mb for step in memory],
        memory_mb=[value / MB for value in memory.values()],
        epoch_mb=split_mb,
        num_not_once=num_not_once(
            run.record.folder / "sample_ids.rank0.jsonl",
            num_samples=split.num_samples,
            steps_per_epoch=split.num_samples // batch,
            num_epochs=config["trainer"]["max_epochs"],
        ),
    )


def num_not_once(path: Path, *, num_samples: int, steps_per_epoch: int, num_epochs: int) -> int:
    """Return in how many cases a sample was not read exactly once in an epoch; of an epoch that is not there, all."""
    with path.open() as stream:
        steps = [json.loads(line)["ids"] for line in stream]
    wrong = 0
    for epoch in range(num_epochs):
        first = epoch * steps_per_epoch
        counts = Counter(number for step in steps[first : first + steps_per_epoch] for number in step)
        wrong += sum(counts[number] != 1 for number in range(num_samples))
    return wrong


def largest_difference(first: StudyRun, second: StudyRun) -> float:
    """Return the largest difference of training losses at the same row.

    Raises:
        UserError: a loss is not finite: such losses cannot be told apart.
        ValueError: the runs have not as many rows.
    """
    pairs = zip(first.logged(LOSS).values(), second.logged(LOSS).values(), strict=True)
    return max(abs(a - b) for a, b in pairs)
