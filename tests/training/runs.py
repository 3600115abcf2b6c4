"""Runs for tests: in this process, or on real ranks."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from forked import exit_codes, fork_ranks
from pipeline.compose import compose
from pipeline.config import TRAIN_SCHEMAS
from pipeline.train import quieten_libraries, train
from pipeline.training.checkpoint import load_checkpoint, newest_whole_checkpoint
from pipeline.world import World

ONE_RANK = World(rank=0, size=1, local_rank=0, local_size=1, cuda=False)
SMALL = [
    *("model=mlp", "model.hidden=[16]", "logger=none", "trainer.device=cpu", "batch.size=12", "optimizer.rate=0.01"),
    "trainer.measure_bound=false",  # it is measured, and logged, only where training took long enough
    # What watches has tests of its own (tests/track), and rows and files of its own.
    *("track.layers_every_steps=null", "track.noise_scale_every_steps=null", "track.pictures=false"),
]
MEASURED = "trainer.measure_bound=true"


def train_here(data: Path | str, run_dir: Path, *options: str) -> dict[str, Any]:
    """Train a small model in this process, on one rank."""
    quieten_libraries()
    other_model = any(option.startswith("model=") for option in options)
    small = [option for option in SMALL if not (other_model and option.startswith("model"))]
    overrides = [f"data.path={data}", f"run_dir={run_dir}", *small, *options]
    return train(compose("train", TRAIN_SCHEMAS, overrides), ONE_RANK)


def run_ranks(num_ranks: int, module: str, *options: str) -> str:
    """Run ranks to their end and return what they printed; fail with it where they fail."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        codes = exit_codes(fork_ranks(num_ranks, log, *options, module=module))
        output = log.read_text()
    assert codes == [0] * num_ranks, output
    return output


def weights_of(run_dir: Path) -> dict[str, torch.Tensor]:
    """Return the state dict of a run's newest checkpoint."""
    path = newest_whole_checkpoint(run_dir / "checkpoints")
    assert path is not None
    state: dict[str, torch.Tensor] = load_checkpoint(path)["state_dict"]
    return state


def assert_equal_weights(first: Path, second: Path) -> None:
    """Assert that two runs ended with the same weights, to the last bit."""
    left, right = weights_of(first), weights_of(second)
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different, f"differ: {different}"


def sample_ids(run_dir: Path, *, rank: int = 0) -> list[tuple[int, list[int]]]:
    """Return (step, ids) rows of a run's sample id log."""
    lines = (run_dir / f"sample_ids.rank{rank}.jsonl").read_text().splitlines()
    return [(row["step"], row["ids"]) for row in map(json.loads, lines)]


def metric_rows(run_dir: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
