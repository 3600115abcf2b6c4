"""How long does training stand still for a checkpoint? A model's state written on the step's thread, and beside it.

python -m benchmarks.checkpoint_pause parameters=30000000 folder=/tmp
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

import torch

from pipeline.training.background import BackgroundWriter
from pipeline.training.checkpoint import checkpoint_name, remove_checkpoint, write_checkpoint

REPEATS = 5


def main(argv: list[str]) -> int:
    options = dict(item.split("=", 1) for item in argv)
    parameters = int(options.get("parameters", 30_000_000))
    # Weights and AdamW's two moments.
    state = {name: torch.randn(parameters) for name in ("weights", "exp_avg", "exp_avg_sq")}
    with tempfile.TemporaryDirectory(dir=options.get("folder")) as folder:
        print(f"{3 * 4 * parameters / 1e9:.2f} GB, n={REPEATS}, median (least-most) in s")
        for background in (False, True):
            writer = BackgroundWriter(
                lambda step, content: write_checkpoint(content, Path(folder) / checkpoint_name(step)),
                background=background,
            )
            pauses, writes = [], []
            for step in range(REPEATS + 1):
                before_pause_s, before_write_s = writer.pause_s, writer.write_s
                writer.write(step, state)
                writer.wait()
                if step:  # the first copy also makes its memory
                    pauses.append(writer.pause_s - before_pause_s)
                    writes.append(writer.write_s - before_write_s)
                remove_checkpoint(Path(folder) / checkpoint_name(step))
            writer.close()
            print(f"background={background}: pause {_spread(pauses)}, write {_spread(writes)}")
    return 0


def _spread(times_s: list[float]) -> str:
    return f"{statistics.median(times_s):.3f} ({min(times_s):.3f}-{max(times_s):.3f})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
