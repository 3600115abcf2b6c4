"""Numbers as people read them, by the unit at the end of a metric's key, and strings made safe for HTML.

value_text("val/top1_frac", 0.425)              # 42.50 %
value_text("rate/images_per_s", 12_345.6)       # 12,350 images/s
title_of("grad/noise_scale_images")             # Noise scale
escaped("<b>cat</b>")                           # &lt;b&gt;cat&lt;/b&gt;
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from typing import Any

from pipeline.track.run_reading import finite

# Overrides of the writing direction could make the page read otherwise than it is.
_DIRECTION_SIGNS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
NONE = "–"
# What a key's last word tells of its unit; `x_per_s` comes before `x_s`.
UNITS = ("per_s", "frac", "bytes", "images", "s")
# Where the key's own words say it badly.
TITLES = {
    "top1_frac": "Accuracy",
    "top5_frac": "Accuracy, top 5",
    "map_frac": "Mean average precision",
    "r2_frac": "Variance explained",
    "mse": "Mean squared error",
    "top1_error_frac": "Standard error of the gap in accuracy",
    "train_top1_frac": "Accuracy on training images",
    "train_loss": "Loss on training images",
    "norm": "Norm of the gradient",
    "signal_sq": "Signal: squared norm of the gradient",
    "noise_trace": "Noise: trace of the gradients' covariance",
    "wall_s": "Time",
    "mfu_frac": "Model FLOP utilisation",
    "rss_bytes": "Memory of the process",
    "gpu_bytes": "Memory of the GPU",
    "flops_per_s": "FLOP/s",
    "activation_rms": "Activations, root mean square",
    "activation_grad_rms": "Gradients at activations, root mean square",
    "weight_norm": "Norm of weights",
    "weight_grad_norm": "Norm of weights' gradients",
    "dead_frac": "Dead units",
}


def escaped(text: object, *, limit: int = 300) -> str:
    """Return anything as HTML that shows it, cut to `limit` characters, fit for quoted attributes too."""
    shown = str(text)[: limit + 1]
    if len(shown) > limit:
        shown = shown[: limit - 1] + "…"
    signs = (
        sign if sign in "\n\t" or unicodedata.category(sign) not in ("Cc", "Cs") else REPLACEMENT for sign in shown
    )
    return html.escape(_DIRECTION_SIGNS.sub(REPLACEMENT, "".join(signs)), quote=True)


def unit_of(key: str) -> str:
    """Return the unit that a key ends with, one of UNITS, or nothing."""
    last = key.rpartition("/")[2]
    return next((unit for unit in UNITS if last == unit or last.endswith(f"_{unit}")), "")


def title_of(key: str) -> str:
    """Return a metric's name for people: its own words, without the unit."""
    last = key.rpartition("/")[2]
    if last in TITLES:
        return TITLES[last]
    unit = unit_of(key)
    words = last.removesuffix(f"_{unit}") if unit and unit != "per_s" else last
    return words.replace("_per_s", " per second").replace("_", " ").strip().capitalize() or key


def value_text(key: str, value: Any) -> str:
    """Return a metric's value with its unit; a dash for what is no finite number."""
    if finite(value) is None:
        return NONE
    unit = unit_of(key)
    if unit == "frac":
        return f"{100 * value:.2f} %"
    if unit == "bytes":
        return bytes_text(value)
    if unit == "s":
        return duration_text(value)
    if unit == "per_s":
        what = key.rpartition("/")[2].removesuffix("_per_s").rpartition("_")[2]
        return f"{bytes_text(value)}/s" if what == "bytes" else f"{number_text(value)} {what}/s"
    return f"{number_text(value)} images" if unit == "images" else number_text(value)


def number_text(value: float) -> str:
    """Return a number to four digits: 1,234,000, 12.35, 0.001234, 1.2e-07."""
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e12):
        return f"{int(value):,}"
    if value != 0 and not 1e-4 <= abs(value) < 1e15:
        return f"{value:.4g}"
    digits = 3 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{max(0, digits)}f}"


def bytes_text(value: float) -> str:
    """Return a size in B, kB, MB, GB or TB of a thousand each."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} B"


def duration_text(seconds: float) -> str:
    """Return a duration in the unit that fits it: 6.5 ms, 12.3 s, 4 min 10 s, 3 h 05 min."""
    if abs(seconds) < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
