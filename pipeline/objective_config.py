"""Schemas of the group `objective`."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.compose import require


@dataclass(slots=True, kw_only=True)
class ObjectiveConfig:
    """Any objective; the group `objective` picks the subclass."""


@dataclass(slots=True, kw_only=True)
class CrossEntropyConfig(ObjectiveConfig):
    label_smoothing: float = field(default=0.0, metadata={"help": "share of the target spread over all classes"})

    def __post_init__(self) -> None:
        valid = 0 <= self.label_smoothing < 1
        require(valid, f"objective.label_smoothing={self.label_smoothing}: 0 <= label_smoothing < 1 wanted")


@dataclass(slots=True, kw_only=True)
class MeanSquaredErrorConfig(ObjectiveConfig):
    pass


@dataclass(slots=True, kw_only=True)
class BinaryCrossEntropyConfig(ObjectiveConfig):
    pass


OBJECTIVE_SCHEMAS = {
    "objective/cross_entropy": CrossEntropyConfig,
    "objective/mse": MeanSquaredErrorConfig,
    "objective/binary_cross_entropy": BinaryCrossEntropyConfig,
}
