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


class RankStrategy(Enum):
    """How ranks share a step; one rank always works alone."""

    auto = "auto"
    ddp = "ddp"
    fsdp = "fsdp"


class GradientCompression(Enum):
    none = "none"
    bf16 = "bf16"


class CompileMode(Enum):
    """Values are the modes of torch.compile."""

    default = "default"
    reduce_overhead = "reduce-overhead"
    max_autotune = "max-autotune"


@dataclass(slots=True, kw_only=True)
class TrainerConfig:
    max_epochs: int = field(default=10, metadata={"help": "epochs to train"})
    max_steps: int | None = field(default=None, metadata={"help": "stop after this many steps, if earlier"})
    precision: Precision = field(default=Precision.fp32, metadata={"help": "fp32, or bf16 autocast"})
    device: Device = field(default=Device.auto, metadata={"help": "auto: a GPU for each rank where there are any"})
    compile: bool = field(default=False, metadata={"help": "torch.compile the model"})
    compile_mode: CompileMode = field(
        default=CompileMode.default,
        metadata={"help": "default; reduce_overhead: with CUDA graphs; max_autotune: tries several kernels"},
    )
    strategy: RankStrategy = field(
        default=RankStrategy.auto,
        metadata={"help": "of several ranks: auto or ddp, the whole model on each; fsdp, a part of it on each"},
    )
    shard_ranks: int | None = field(
        default=None, metadata={"help": "fsdp: ranks that hold one copy of the model, as those of a host; null: all"}
    )
    gradient_compression: GradientCompression = field(
        default=GradientCompression.none, metadata={"help": "bf16: ranks exchange gradients in half the bytes"}
    )
    activation_checkpointing: bool = field(
        default=False,
        metadata={"help": "keep each block's input alone and compute the rest again: less memory, a third more work"},
    )
    clip_norm: float | None = field(default=None, metadata={"help": "largest norm of the gradient; null: off"})
    max_loss_ratio: float | None = field(
        default=None,
        metadata={"help": "end when the training loss is over so many times that of the first ten rows; null: never"},
    )
    log_every_steps: int = field(default=50, metadata={"help": "steps between rows of metrics.jsonl"})
    hang_s: float | None = field(
        default=540.0,
        metadata={"help": "end, for the launcher to start again, when a rank does nothing for so long; null: off"},
    )
    measure_bound: bool = field(
        default=True,
        metadata={"help": "at the end, tell what bounded the run: times model and loader alone for 1 % of its time"},
    )

    def __post_init__(self) -> None:
        require(self.max_epochs >= 1, f"trainer.max_epochs={self.max_epochs}: at least 1 wanted")
        require(self.max_steps is None or self.max_steps >= 1, f"trainer.max_steps={self.max_steps}: at least 1")
        require(self.log_every_steps >= 1, f"trainer.log_every_steps={self.log_every_steps}: at least 1 wanted")
        require(self.clip_norm is None or self.clip_norm > 0, f"trainer.clip_norm={self.clip_norm}: over 0 wanted")
        require(
            self.max_loss_ratio is None or self.max_loss_ratio > 1,
            f"trainer.max_loss_ratio={self.max_loss_ratio}: over 1 wanted, or null",
        )
        require(self.hang_s is None or self.hang_s > 0, f"trainer.hang_s={self.hang_s}: over 0 wanted")
        require(
            self.compile or self.compile_mode is CompileMode.default,
            f"trainer.compile_mode={self.compile_mode.name}: wants trainer.compile=true",
        )
        sharded = self.strategy is RankStrategy.fsdp
        require(
            not sharded or self.compile_mode is not CompileMode.reduce_overhead,
            "trainer.compile_mode=reduce_overhead: a CUDA graph wants weights that stay where they are, which those of"
            " trainer.strategy=fsdp do not; try compile_mode=default",
        )
        require(
            self.shard_ranks is None or (sharded and self.shard_ranks >= 1),
            f"trainer.shard_ranks={self.shard_ranks}: from 1, and with trainer.strategy=fsdp",
        )


class Best(Enum):
    """Which value of a metric is the best."""

    auto = "auto"
    highest = "highest"
    lowest = "lowest"


@dataclass(slots=True, kw_only=True)
class CheckpointConfig:
    every_steps: int | None = field(default=None, metadata={"help": "steps between checkpoints; null: at evaluations"})
    keep: int = field(default=2, metadata={"help": "newest checkpoints to keep"})
    keep_best: int = field(
        default=0, metadata={"help": "beside them, those with the best metric; best.ckpt points at the best"}
    )
    metric: str = field(default="val/top1_frac", metadata={"help": "evaluation's metric that decides the best"})
    best: Best = field(
        default=Best.auto, metadata={"help": "highest, lowest, or auto: lowest where the name ends in loss or mse"}
    )
    background: bool = field(
        default=True, metadata={"help": "write while training goes on, from a copy in the memory of rank 0's host"}
    )

    def __post_init__(self) -> None:
        require(self.every_steps is None or self.every_steps >= 1, f"checkpoint.every_steps={self.every_steps}: from 1")
        require(self.keep >= 1, f"checkpoint.keep={self.keep}: at least 1 wanted")
        require(self.keep_best >= 0, f"checkpoint.keep_best={self.keep_best}: from 0 wanted")
        require(self.metric.startswith("val/"), f"checkpoint.metric={self.metric}: one of evaluation's, val/...")

    @property
    def lowest_is_best(self) -> bool:
        """Return whether a lower metric is better."""
        return self.best is Best.lowest or (self.best is Best.auto and self.metric.endswith(("loss", "mse")))
