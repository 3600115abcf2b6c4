"""`python -m pipeline.sync`: send runs to Weights & Biases that were kept offline, or that were not sent to their end.

What is sent is the record in the run folder, under the id that the folder keeps; the server tells how far it has the
run, and gets what comes after. So it does not matter how often a run was killed, resumed or sent before: it is one run
there, with each step once. `wandb sync` sends W&B's own offline files instead.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.compose import compose, help_text
from pipeline.shards.errors import UserError, run_entry_point
from pipeline.sync_config import SYNC_SCHEMAS, SyncConfig
from pipeline.track.following import Unreachable, follow, hold_tracker
from pipeline.track.run_reading import RunRecord, find_runs, read_run
from pipeline.track.wandb_tracker import WandbOptions, WandbTracker, has_key, known_of, newest_step

SUMMARY = """Send runs to Weights & Biases: all in runs/, or those that are named.

  python -m pipeline.sync
  python -m pipeline.sync runs=[runs/0001,sweeps/0003]

It can be repeated: what the server has is not sent again."""


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text("sync", SYNC_SCHEMAS, summary=SUMMARY))
        return 0
    config: SyncConfig = compose("sync", SYNC_SCHEMAS, argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    folders = folders_of(config.runs)
    # Sending is what was asked for, whatever mode is set for training.
    os.environ["WANDB_MODE"] = "online"
    try:
        is_there = has_key()
    except ValueError as error:
        raise UserError(
            f"{str(error).rstrip('.')}; type `.venv/bin/wandb login`, or set another WANDB_API_KEY"
        ) from None
    if not is_there:
        raise UserError("no key of Weights & Biases: type `.venv/bin/wandb login`, or set WANDB_API_KEY")
    for folder in folders:
        sys.stdout.write(f"{folder}: {sync(folder, config)}\n")
        sys.stdout.flush()
    return 0


def folders_of(roots: Sequence[str]) -> list[Path]:
    """Return the run folders that are named or lie in folders that are named, each once.

    Raises:
        UserError: a folder holds none.
    """
    found: dict[Path, Path] = {}
    for root in roots:
        folders = list(find_runs(Path(root)))
        if not folders:
            raise UserError(f"runs={root}: no run there; train one with `make train`")
        found |= {folder.resolve(): folder for folder in folders if folder.resolve() not in found}
    return list(found.values())


def sync(folder: Path, config: SyncConfig) -> str:
    """Send one run; return what was done, in words.

    Raises:
        UserError: the server does not answer, or refuses.
    """
    with hold_tracker(folder, wait_s=0) as is_held:
        if not is_held:
            return "left out, as it is training or being sent now"
        try:
            run = read_run(folder)
        except UserError as error:  # it keeps no other run from being sent
            return f"left out: {error}"
        if is_sent(run, config):
            return "sent before"
        try:
            with tempfile.TemporaryDirectory(prefix="tarmac-sync-") as wandb_folder:
                tracker = WandbTracker(run, options=options_of(run, config, wandb_folder=Path(wandb_folder)))
                follow(folder, tracker, is_ended=lambda: True)
        except Unreachable as error:
            raise UserError(f"{folder}: Weights & Biases cannot be reached ({error}); try again later") from None
        mark_offline_files(folder)
        steps = "1 step" if tracker.num_sent == 1 else f"{tracker.num_sent:,} steps"
        unfinished = "" if is_sent(run, config) else " (not finished: its last step goes when it is)"
        return f"{steps} sent to {tracker.url}{unfinished}"


def options_of(run: RunRecord, config: SyncConfig, *, wandb_folder: Path) -> WandbOptions:
    """Return where the run goes: what is typed, else what its own config says."""
    chosen = run.config.get("logger")
    logger = chosen if isinstance(chosen, dict) else {}
    return WandbOptions(
        mode="online",
        project=config.project or logger.get("project"),
        entity=config.entity or logger.get("entity"),
        world_size=run.summary.get("world_size"),
        folder=wandb_folder,
    )


def is_sent(run: RunRecord, config: SyncConfig) -> bool:
    """Return whether all of a run was sent to where it is to go, as far as its folder knows."""
    known = known_of(run.folder)
    is_there = all(
        known.get(name) == value for name, value in [("project", config.project), ("entity", config.entity)] if value
    )
    return is_there and known.get("sent_step") is not None and known["sent_step"] == newest_step(run)


def mark_offline_files(folder: Path) -> None:
    """Have `wandb sync` leave out W&B's own files of a run that was sent."""
    for path in folder.glob("wandb/offline-run-*/run-*.wandb"):
        path.with_name(f"{path.name}.synced").touch()


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
