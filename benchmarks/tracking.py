"""What does watching a run cost of a step? Goal: at most 1 % of a step of 10 ms, with everything on.

    python -m benchmarks.tracking                               # a step of about 10 ms on one core
    python -m benchmarks.tracking --only layers noise_scale     # of the parts below, these alone
    python -m benchmarks.tracking model.width=512               # any option of pipeline.train

Each candidate is a training by pipeline.train's own function in this process; metrics.jsonl is written by all of them.

    nothing         logger=none, and all of track.* off
    everything      wandb offline, rows on each layer, gradient noise scale, pictures, generalisation gap
    wandb, ...      one of these alone

Turns are paired: each candidate's training comes right after one with nothing on, and its cost is the difference of
that pair, so a machine that slows down slows both. How a step's time is told: benchmarks/step_times.py; both times are
means, since what is measured comes at some steps only. What trackers' processes take of other cores is in the time that
passed where there is no core for them.
"""

from __future__ import annotations

import os
import statistics
import sys

from benchmarks.measure import print_conditions, print_table, rate_text
from benchmarks.step_times import StepTimes, overrides_of, prepare_steps, step_parser, train_step_times
from pipeline.shards.errors import run_entry_point

OFF = {
    "wandb": "logger=none",
    "layers": "track.layers_every_steps=null",
    "noise_scale": "track.noise_scale_every_steps=null",
    "pictures": "track.pictures=false",
    "gap": "track.gap=false",
}
NOTHING, EVERYTHING = "nothing", "everything"


def main(argv: list[str]) -> int:
    parser = step_parser("tracking", __doc__, steps=1000)
    parser.add_argument("--only", nargs="+", choices=[EVERYTHING, *OFF], default=[EVERYTHING, *OFF], help="candidates")
    options = parser.parse_args(argv)
    # Nothing is sent, whoever runs this.
    os.environ["WANDB_MODE"] = "offline"
    # A rank's peak would be measured once, after 10 s, for 0.1 s.
    settled = ["track.report=false", "track.peak_flops_per_s=1e11"]
    overrides = [*settled, *overrides_of(options, prepare_steps(options))]
    pairs: dict[str, list[tuple[StepTimes, StepTimes]]] = {name: [] for name in options.only}
    for _ in range(options.repeats):
        for name in options.only:
            pairs[name].append((step_times(NOTHING, overrides), step_times(name, overrides)))
    print_conditions(" ".join(["python -m benchmarks.tracking", *argv]), "pytorch-lightning", "wandb")
    nothing = [before for found in pairs.values() for before, _ in found]
    rows = [row_of(NOTHING, nothing, [])]
    rows += [row_of(name, [after for _, after in found], found) for name, found in pairs.items()]
    header = ["watched", "ms a step, median (min to max)", "of the step", "ms of the thread that trains", "of it", "n"]
    print_table(header, rows)
    print("\ngoal: everything at most 1 % of a step of 10 ms")
    return 0


def row_of(name: str, times: list[StepTimes], pairs: list[tuple[StepTimes, StepTimes]]) -> list[str]:
    """Return a line of the table; what a candidate adds is the median over its pairs, with their range."""
    cells = [name]
    for field in ("passed_ms", "thread_ms"):
        added = [100 * (getattr(after, field) / getattr(before, field) - 1) for before, after in pairs]
        share = f"{rate_text(added, decimals=2)} %" if added else ""
        cells += [rate_text([getattr(one, field) for one in times], decimals=2), share]
    return [*cells, str(len(times))]


def step_times(name: str, overrides: list[str]) -> StepTimes:
    """Train once, watched as `name` says, and return the mean times of a step."""
    off = [option for part, option in OFF.items() if name not in (EVERYTHING, part)]
    return train_step_times([*overrides, *off], average=statistics.fmean)


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
