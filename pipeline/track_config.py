"""Schema of `track`: what a run watches beside its metrics, and how often."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.compose import require


@dataclass(slots=True, kw_only=True)
class TrackConfig:
    layers_every_steps: int | None = field(
        default=200,
        metadata={"help": "steps between rows on each layer: norms, scales, dead units; null: off"},
    )
    noise_scale_every_steps: int | None = field(
        default=50, metadata={"help": "steps between measurements of the gradient noise scale; null: off"}
    )
    pictures: bool = field(
        default=True, metadata={"help": "first layer's weights, augmented inputs, hardest and wrong samples, confusion"}
    )
    gap: bool = field(
        default=True,
        metadata={"help": "at evaluations, the generalisation gap: also evaluates a fixed sample of training images"},
    )
    peak_flops_per_s: float | None = field(
        default=None,
        metadata={"help": "a rank's peak FLOP/s, for rate/mfu_frac; null: its GPU's data sheet, or measured once"},
    )
    report: bool = field(default=True, metadata={"help": "write report.html at the end"})

    def __post_init__(self) -> None:
        for name in ("layers_every_steps", "noise_scale_every_steps"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"track.{name}={value}: at least 1 wanted, or null")
        peak = self.peak_flops_per_s
        require(peak is None or peak > 0, f"track.peak_flops_per_s={peak}: over 0 wanted, or null")
