"""Schemas of what starts runs: `conf/sweep.yaml`, `conf/rate_test.yaml`, `conf/batch_finder.yaml`; and a sweep's file.

    own, options = split_options("sweep", ["sweep.jobs=2", "model=mlp", "seed=0,1"])
    config = compose("sweep", SWEEP_SCHEMAS, own).sweep         # a SweepConfig
    options                                                     # ["model=mlp", "seed=0,1"]: training's

Each command's own options have its name in front; all others are training's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pipeline.compose import require
from pipeline.shards.errors import UserError


class Where(Enum):
    """Who carries out the runs."""

    here = "here"
    slurm = "slurm"
    submitit_local = "submitit_local"


class Goal(Enum):
    auto = "auto"
    highest = "highest"
    lowest = "lowest"


@dataclass(slots=True, kw_only=True)
class SlurmConfig:
    partition: str | None = field(default=None, metadata={"help": "as sbatch has it; null: the cluster's own"})
    account: str | None = field(default=None, metadata={"help": "as sbatch has it; null: your own"})
    time_min: int = field(default=240, metadata={"help": "limit of a run's job, minutes"})
    cpus_per_rank: int = field(default=4, metadata={"help": "cores of a job for each of its ranks"})
    gpus_per_rank: int = field(default=1, metadata={"help": "GPUs of a job for each of its ranks; 0: none"})
    mem_gb: int | None = field(default=None, metadata={"help": "memory of a job, GB; null: the cluster's own"})

    def __post_init__(self) -> None:
        for name in ("time_min", "cpus_per_rank", "mem_gb"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"slurm.{name}={value}: at least 1 wanted")
        require(self.gpus_per_rank >= 0, f"slurm.gpus_per_rank={self.gpus_per_rank}: at least 0 wanted")


@dataclass(slots=True, kw_only=True)
class RunsConfig:
    """How runs are started: part of a sweep's and of a range test's options."""

    dir: str | None = field(
        default=None, metadata={"help": "folder of all runs; null: in runs/, named after what is run, so found again"}
    )
    jobs: int = field(default=1, metadata={"help": "runs at once; they share cores and GPUs evenly"})
    ranks: int = field(default=1, metadata={"help": "ranks of each run, all on one machine"})
    where: Where = field(
        default=Where.here,
        metadata={"help": "here: processes of this machine; slurm: a job each; submitit_local: such jobs, here"},
    )
    slurm: SlurmConfig = field(default_factory=SlurmConfig)

    def __post_init__(self) -> None:
        require(self.jobs >= 1, f"jobs={self.jobs}: at least 1 wanted")
        require(self.ranks >= 1, f"ranks={self.ranks}: at least 1 wanted")


@dataclass(slots=True, kw_only=True)
class SweepConfig(RunsConfig):
    file: str | None = field(
        default=None, metadata={"help": "YAML file with more options, and with a list of runs; see docs/SWEEPS.md"}
    )
    samples: int | None = field(
        default=None, metadata={"help": "how often what is drawn, as by log_uniform(1e-4,1e-1), is drawn"}
    )
    seed: int = field(default=0, metadata={"help": "decides what is drawn; the runs' own seed is `seed`"})
    together: list[str] = field(
        default_factory=list, metadata={"help": "swept options whose values go in step instead of being crossed"}
    )
    metric: str | None = field(
        default=None,
        metadata={"help": "what table and plot show, of summary.json; null: accuracy, or what is there instead"},
    )
    goal: Goal = field(
        default=Goal.auto, metadata={"help": "what is best; auto: the lowest of a loss or an error, else the highest"}
    )
    dry_run: bool = field(default=False, metadata={"help": "say which runs there would be, and start none"})

    def __post_init__(self) -> None:
        RunsConfig.__post_init__(self)
        require(self.samples is None or self.samples >= 1, f"sweep.samples={self.samples}: at least 1, or null, wanted")


@dataclass(slots=True, kw_only=True)
class RateTestConfig(RunsConfig):
    lowest: float = field(default=1e-6, metadata={"help": "rate of the first step"})
    highest: float = field(default=10.0, metadata={"help": "rate of the last step"})
    steps: int = field(default=200, metadata={"help": "steps from the lowest to the highest rate"})
    max_loss_ratio: float | None = field(
        default=10.0,
        metadata={"help": "end a run whose loss is over so many times its start; null: go on to the last step"},
    )
    smooth_steps: float = field(default=5.0, metadata={"help": "steps over which the loss is averaged; 0: not"})

    def __post_init__(self) -> None:
        RunsConfig.__post_init__(self)
        ends = f"rate_test.lowest={self.lowest}, highest={self.highest}"
        require(0 < self.lowest < self.highest, f"{ends}: 0 < lowest < highest wanted")
        require(self.steps >= 10, f"rate_test.steps={self.steps}: at least 10 wanted")
        ratio = self.max_loss_ratio
        require(ratio is None or ratio > 1, f"rate_test.max_loss_ratio={ratio}: over 1 wanted, or null")
        require(self.smooth_steps >= 0, f"rate_test.smooth_steps={self.smooth_steps}: at least 0 wanted")


class Option(Enum):
    """Which option of training the batch finder looks for."""

    size = "size"
    micro_size = "micro_size"


@dataclass(slots=True, kw_only=True)
class BatchFinderConfig:
    option: Option = field(
        default=Option.size,
        metadata={"help": "size: the largest batch.size; micro_size: the largest batch.micro_size under it"},
    )
    first: int = field(default=64, metadata={"help": "what is tried first; doubled while it fits"})
    most: int | None = field(default=None, metadata={"help": "what is not gone beyond; null: the split's samples"})
    tolerance_frac: float = field(
        default=0.03, metadata={"help": "how far the answer may be below the largest that fits; 0: not at all"}
    )
    memory_bytes: int | None = field(
        default=None,
        metadata={"help": "on the CPU, what each rank may have; null: its share of what is free now"},
    )
    ranks: int = field(default=1, metadata={"help": "ranks of each try, all on this machine"})
    launcher: str | None = field(
        default=None,
        metadata={"help": "in front of '-m pipeline.train': 'srun torchrun ...'; ranks says how many; null: torchrun"},
    )
    timeout_s: float = field(default=900.0, metadata={"help": "a try that takes longer is an error, not an answer"})
    plot: str | None = field(default=None, metadata={"help": "PNG of memory against batch to write; null: none"})

    def __post_init__(self) -> None:
        for name in ("first", "most", "memory_bytes", "ranks"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"batch_finder.{name}={value}: at least 1 wanted")
        frac = self.tolerance_frac
        require(0 <= frac < 1, f"batch_finder.tolerance_frac={frac}: 0 to below 1 wanted")
        require(self.timeout_s > 0, f"batch_finder.timeout_s={self.timeout_s}: over 0 wanted")


@dataclass(slots=True, kw_only=True)
class SweepRoot:
    sweep: SweepConfig = field(default_factory=SweepConfig)


@dataclass(slots=True, kw_only=True)
class RateTestRoot:
    rate_test: RateTestConfig = field(default_factory=RateTestConfig)


@dataclass(slots=True, kw_only=True)
class BatchFinderRoot:
    batch_finder: BatchFinderConfig = field(default_factory=BatchFinderConfig)


SWEEP_SCHEMAS = {"root": SweepRoot}
RATE_TEST_SCHEMAS = {"root": RateTestRoot}
BATCH_FINDER_SCHEMAS = {"root": BatchFinderRoot}


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepFile:
    """What a sweep's YAML file says: options as typed, and a list of runs, each with options of its own."""

    options: tuple[str, ...]
    runs: tuple[tuple[str, ...], ...]


def split_options(command: str, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options of the command itself and those of training."""
    own = [option for option in argv if option.startswith(f"{command}.")]
    return own, [option for option in argv if option not in own]


def read_sweep_file(path: Path) -> SweepFile:
    """Read a sweep's file.

    Raises:
        UserError: there is none, or it holds something else than `options` and `runs`.
    """
    if not path.is_file():
        raise UserError(f"sweep.file={path}: no such file")
    wanted = "options: [name=value, ...] and runs: [[name=value, ...], ...] wanted"
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # OmegaConf lets through whatever the YAML parser raises
        raise UserError(f"sweep.file={path}: no YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict) or not set(content) <= {"options", "runs"}:
        raise UserError(f"sweep.file={path}: {wanted}")
    options, runs = content.get("options") or [], content.get("runs") or []
    if not _are_options(options) or not isinstance(runs, list) or not all(map(_are_options, runs)):
        raise UserError(f"sweep.file={path}: {wanted}")
    return SweepFile(options=tuple(options), runs=tuple(map(tuple, runs)))


def _are_options(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and "=" in item for item in value)
