"""Schemas of `trainer` and `checkpoint`: how a run is carried out, on what, and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from pipeline.compose import require


class Precision(Enum):
    fp32 = "fp32"
    bf16 = "bf16"


class Device(Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass(slots=True, kw_only=True)
class TrainerConfig:
    max_epochs: int = field(default=10, metadata={"help": "epochs to train"})
    max_steps: int | None = field(default=None, metadata={"help": "stop after this many steps, if earlier"})
    precision: Precision = field(default=Precision.fp32, metadata={"help": "fp32, or bf16 autocast"})
    device: Device = field(default=Device.auto, metadata={"help": "auto: a GPU for each rank where there are any"})
    compile: bool = field(default=False, metadata={"help": "torch.compile the model"})
    clip_norm: float | None = field(default=None, metadata={"help": "largest norm of the gradient; null: off"})
    log_every_steps: int = field(default=50, metadata={"help": "steps between rows of metrics.jsonl"})
    measure_bound: bool = field(
        default=True,
        metadata={"help": "at the end, tell what bounded the run: times model and loader alone for 1 % of its time"},
    )

    def __post_init__(self) -> None:
        require(self.max_epochs >= 1, f"trainer.max_epochs={self.max_epochs}: at least 1 wanted")
        require(self.max_steps is None or self.max_steps >= 1, f"trainer.max_steps={self.max_steps}: at least 1")
        require(self.log_every_steps >= 1, f"trainer.log_every_steps={self.log_every_steps}: at least 1 wanted")
        require(self.clip_norm is None or self.clip_norm > 0, f"trainer.clip_norm={self.clip_norm}: over 0 wanted")


@dataclass(slots=True, kw_only=True)
class CheckpointConfig:
    every_steps: int | None = field(default=None, metadata={"help": "steps between checkpoints; null: each epoch"})
    keep: int = field(default=2, metadata={"help": "newest checkpoints to keep"})

    def __post_init__(self) -> None:
        require(self.every_steps is None or self.every_steps >= 1, f"checkpoint.every_steps={self.every_steps}: from 1")
        require(self.keep >= 1, f"checkpoint.keep={self.keep}: at least 1 wanted")
