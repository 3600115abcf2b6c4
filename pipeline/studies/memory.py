"""A data set larger than the memory for it: batches streamed from disk, with flat memory and the same loss.

What is capped is `data.memory_bytes`: the bytes of shards that a run holds, in its page table and in the page cache.
The set, training and validation together, is ten times that. Evaluation has batches, and so memory, of its own: some
20 MB that are taken once. It comes after the last row here, so that a slope is that of training.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from pipeline.studies.estimate import difference_of, mean_of, slope_of
from pipeline.studies.measures.memory_reading import LOSS, MB, Reading, largest_difference, read_back
from pipeline.studies.panels.levels import levels_panel
from pipeline.studies.panels.spread import spread_series
from pipeline.studies.study import Group, Outcome, Picture, Scale, Study, StudyRuns, spread_text
from pipeline.studies.verdict import Check
from pipeline.track.plots import Axis, Mark, Panel, Series, seeds_text

CAPPED, WHOLE, JUMPING, EMPTY = "capped", "in memory", "capped, full order", "next to no data"
TOLD = {
    CAPPED: "windows, under the cap",
    WHOLE: "windows, whole set in memory",
    JUMPING: "whole set shuffled, under the cap",
    EMPTY: "next to no data",
}
CAP_BYTES = 32 << 20
# For the net and its batches without data to speak of: the least under which windows of one shard can be read.
EMPTY_CAP_BYTES = 8 << 20
SPEED = "rate/images_per_s"
# The bounds. A run that kept what it reads would gain 100 MB for 100 MB read.
MOST_GAINED_MB, LEAST_KEPT_MB, MOST_CAPS, MOST_LOSS_DIFFERENCE = 2.0, 50.0, 1.5, 1e-6
# Under the cap memory should be flat once so many caps were read.
FILLING_CAPS = 2


def groups(scale: Scale, seeds: str) -> Sequence[Group]:
    hidden, epochs = ("[32]", 3) if scale is Scale.laptop else ("[4096,4096]", 6)
    plain = (
        *(f"seed={seeds}", "model=mlp", f"model.hidden={hidden}", "optimizer=sgd", "optimizer.rate=0.01"),
        *("schedule=constant", "augment=none", "batch.size=80", "trainer.log_every_steps=5"),
        # Checksums would bring the set into the page cache first.
        *("data.check=sizes", f"evaluation.every_epochs={epochs}", "log_sample_ids=true", "track.gap=false"),
        *("track.layers_every_steps=null", "track.noise_scale_every_steps=null"),
    )
    window = ("order=window", "order.lanes=4", "order.window_chunks=2")
    small = ("order=window", "order.lanes=2", "order.window_chunks=1", "data.train_split=val")
    capped, long = f"data.memory_bytes={CAP_BYTES}", f"trainer.max_epochs={epochs}"
    options = {
        CAPPED: (*window, long, capped),
        WHOLE: (*window, long),
        JUMPING: ("order=full", "trainer.max_epochs=1", capped),
        EMPTY: (*small, long, f"data.memory_bytes={EMPTY_CAP_BYTES}"),
    }
    return [Group(name=name, data="cifar10-64", options=(*plain, *more)) for name, more in options.items()]


def measure(runs: StudyRuns) -> Outcome:
    return conclude(runs, {name: [read_back(run) for run in runs.of(name)] for name in TOLD})


def conclude(runs: StudyRuns, readings: Mapping[str, Sequence[Reading]]) -> Outcome:
    """Return what follows from the runs and from what each read; by seed."""
    peaks = {name: [reading.peak_mb for reading in found] for name, found in readings.items()}
    above = {
        name: [peak - base for peak, base in zip(found, peaks[EMPTY], strict=True)] for name, found in peaks.items()
    }
    cap_mb, first = CAP_BYTES / MB, readings[CAPPED][0]
    checks = [
        Check(
            claim="Under a cap memory stays as it is, however much is read.",
            statistic="resident memory gained for 100 MB read, under the cap, MB",
            estimate=slope_of(*_part(readings[CAPPED], since_mb=FILLING_CAPS * cap_mb)),
            below=MOST_GAINED_MB,
        ),
        Check(
            claim="Without one it grows with what is read, until the whole set is there.",
            statistic="resident memory gained for 100 MB read, in the first epoch without a cap, MB",
            estimate=slope_of(*_part(readings[WHOLE], until_mb=first.epoch_mb)),
            above=LEAST_KEPT_MB,
        ),
        Check(
            claim="The most that it ever is above a run with next to no data is about the cap.",
            statistic="peak of memory above that of a run with next to no data, in caps",
            estimate=mean_of([value / cap_mb for value in above[CAPPED]]),
            below=MOST_CAPS,
        ),
        Check(
            claim="Each image is read once in each epoch.",
            statistic="images and epochs in which one was not read exactly once",
            estimate=mean_of(
                [a.num_not_once + b.num_not_once for a, b in zip(readings[CAPPED], readings[JUMPING], strict=True)]
            ),
            below=0.5,
        ),
        Check(
            claim="The loss is that of the run with the whole set in memory.",
            statistic="largest difference of a training loss from that of the run with the whole set in memory",
            estimate=mean_of([largest_difference(*pair) for pair in zip(runs.of(CAPPED), runs.of(WHOLE), strict=True)]),
            below=MOST_LOSS_DIFFERENCE,
        ),
    ]
    speeds = {name: runs.values(name, SPEED) for name in TOLD}
    slower = difference_of(speeds[CAPPED], speeds[WHOLE])
    return Outcome(
        checks=checks,
        picture=_picture(runs, readings, speeds),
        columns=["reading", "peak above next to no data, MB", "images/s", "seeds"],
        rows=[
            [
                TOLD[name],
                spread_text(above[name]),
                spread_text(speeds[name], decimals=0),
                len(found),
            ]
            for name, found in readings.items()
        ],
        notes=[
            f"{first.epoch_mb:,.0f} MB of training images under a cap of {cap_mb:.0f} MB, {first.epoch_mb / cap_mb:.1f}"
            f" times that. The net and its batches alone take {statistics.fmean(peaks[EMPTY]):,.0f} MB.",
            f"Under the cap {slower.value:+,.0f} images/s ({slower.low:+,.0f} to {slower.high:+,.0f}) against the"
            f" whole set in memory, {statistics.fmean(speeds[WHOLE]):,.0f} images/s; a disk slower than training"
            " would be waited for.",
            "Windows shuffle within a few shards at a time and read each once an epoch, in long runs. A shuffle of the"
            " whole set under the same cap jumps over the disk:"
            f" {statistics.fmean(speeds[JUMPING]):,.0f} images/s. Its resident memory, "
            f"{statistics.fmean(above[JUMPING]):+,.0f} MB, also counts what the kernel maps around each image where the"
            " files lie in its cache already, which it takes back when memory is wanted.",
        ],
    )


def _part(
    readings: Sequence[Reading], *, since_mb: float = 0.0, until_mb: float = float("inf")
) -> tuple[list[float], list[list[float]]]:
    """Return units of 100 MB read, of rows within a part of what is read, and the memory of each run at them."""
    read = readings[0].read_mb
    places = [place for place, value in enumerate(read) if since_mb <= value <= until_mb]
    return [read[place] / 100 for place in places], [[run.memory_mb[place] for place in places] for run in readings]


def _picture(
    runs: StudyRuns, readings: Mapping[str, Sequence[Reading]], speeds: Mapping[str, Sequence[float]]
) -> Picture:
    base_mb = statistics.fmean(reading.peak_mb for reading in readings[EMPTY])
    first, seeds = readings[CAPPED][0], [run.seed for run in runs.of(CAPPED)]
    caption = (
        f"Training an MLP on {first.epoch_mb:,.0f} MB of images, with a cap of {CAP_BYTES / MB:.0f} MB on what is"
        f" in memory of them, {seeds_text(seeds)}."
        " Left: highest resident memory so far, above the peak of a run with next to no data; bands: lowest to highest"
        f" seed. Middle: training loss of seed {seeds[0]}, the same batches. Right: bars: lowest to highest seed."
    )
    return Picture(
        title=f"Training on {first.epoch_mb * MB / CAP_BYTES:.1f} times as much as may be in memory",
        caption=caption,
        panels=[
            Panel(
                x=Axis(label="read", unit="MB"),
                y=Axis(label="memory above next to no data", unit="MB"),
                series=[_memory(readings[name], base_mb=base_mb, label=TOLD[name]) for name in (WHOLE, CAPPED)],
                marks=[Mark(y=CAP_BYTES / MB, label="the cap"), Mark(y=first.epoch_mb, label="training images")],
                title="Memory",
            ),
            _losses(runs),
            levels_panel(
                {"in memory": speeds[WHOLE], "capped": speeds[CAPPED], "capped, full order": speeds[JUMPING]},
                Axis(label="speed", unit="images/s", limits=(0, None)),
                over="reading",
                title="Speed",
            ),
        ],
    )


def _memory(readings: Sequence[Reading], *, base_mb: float, label: str) -> Series:
    rows = [[value - base_mb for value in row] for row in zip(*(run.memory_mb for run in readings), strict=True)]
    return spread_series(readings[0].read_mb, rows, label=label, markers=False)


def _losses(runs: StudyRuns) -> Panel:
    whole, capped = (runs.of(name)[0].logged(LOSS) for name in (WHOLE, CAPPED))
    every = slice(None, None, max(1, len(capped) // 16))
    return Panel(
        x=Axis(label="step"),
        y=Axis(label="training loss"),
        series=[
            Series(label=TOLD[WHOLE], x=[*whole], y=[*whole.values()], markers=False),
            Series(
                label=f"{TOLD[CAPPED]}, some steps",
                x=[*capped][every],
                y=[*capped.values()][every],
                line=False,
            ),
        ],
        title="Loss",
    )


STUDY = Study(
    name="memory",
    title="Data larger than memory",
    claim="A net is trained on more data than fits the memory by reading one batch after another from disk.",
    question="Does memory stay flat, is every image read once an epoch, and is the loss that of a set held in memory?",
    groups=groups,
    measure=measure,
    seeds={Scale.laptop: 5, Scale.gpu: 5},
)
