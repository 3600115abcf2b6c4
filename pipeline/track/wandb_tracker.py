"""Weights & Biases as a view of the record: online where there is a key, else offline, never with a question.

    tracker = WandbTracker(read_run(folder), options=WandbOptions(mode=resolve_mode("auto"), ...))
    tracker.write(step=50, row={"train/loss": 1.9})

W&B's own step is the step of training, and a run folder keeps one id (wandb.json): however often a run was killed and
resumed, it is one run. W&B numbers the rows of a run in ascending order and drops what comes late, so a step is sent as
one row, when a later step is in the record or the run is finished; what the server has already is not sent again.
Offline there is one folder for a run too: a resumed run writes it anew from the record, which is whole, where
W&B's own file lacks what was logged just before a kill.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.shards.publish import publish_json
from pipeline.track.following import Unreachable, first_line
from pipeline.track.media import Kind, Medium
from pipeline.track.run_reading import RunRecord

log = logging.getLogger(__name__)

WANDB_FILE = "wandb.json"
DEFAULT_PROJECT = "tarmac"
FACTS = ("command", "git_commit", "fingerprint", "versions", "machine")
ID_PATTERN = re.compile(r"[a-z0-9]{8}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WandbOptions:
    """How a run is sent.

    Attributes:
        mode: `online` or `offline`.
        project: None: WANDB_PROJECT, else `tarmac`; entity: None: the key's own.
        finish_s: seconds that finishing may take; None: as long as it needs.
        world_size: ranks that train, None where that is not known any more.
        trainer: id of the process whose machine and memory W&B measures; None: none.
        folder: where W&B keeps its files; None: the run folder.
    """

    mode: str
    project: str | None
    entity: str | None
    finish_s: float | None = None
    world_size: int | None = None
    trainer: int | None = None
    folder: Path | None = None


def resolve_mode(mode: str) -> str:
    """Return online, offline or disabled: what is asked for, else what WANDB_MODE says, else by whether there is a key.

    A key is looked for where wandb does: WANDB_API_KEY, its settings, netrc.
    """
    if mode != "auto":
        return mode
    said = _import_wandb().setup().settings.mode
    if said == "disabled":
        return "disabled"
    if said in ("offline", "dryrun"):
        return "offline"
    try:
        return "online" if has_key() else "offline"
    except ValueError as error:
        log.warning("wandb: %s; the run is kept offline", error)
        return "offline"


def has_key() -> bool:
    """Return whether wandb finds a key; it is not tried.

    Raises:
        ValueError: what it finds is not of a key's form.
    """
    wandb = _import_wandb()
    try:
        return bool(wandb.login(prompt=False, verify=False))
    except wandb.errors.AuthenticationError as error:
        raise ValueError(first_line(error)) from None


class WandbTracker:
    """One W&B run, which shows one run folder."""

    def __init__(self, run: RunRecord, *, options: WandbOptions) -> None:
        """Start or resume the W&B run.

        Raises:
            Unreachable: the server does not answer, or refuses.
        """
        wandb = _import_wandb()
        self._folder, self._options = run.folder, options
        self._known = known_of(run.folder)
        is_online = options.mode == "online"
        if not is_online:
            for path in (run.folder / "wandb").glob(f"offline-run-*-{self._known['id']}"):
                shutil.rmtree(path, ignore_errors=True)
        facts = {name: run.facts.get(name) for name in FACTS} | {"world_size": options.world_size}
        try:
            self._run = wandb.init(
                mode=options.mode,
                id=self._known["id"],
                resume="allow" if is_online else None,
                project=options.project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
                entity=options.entity,
                name=run.name,
                dir=str(options.folder or run.folder),
                config={**run.config, "run": {name: value for name, value in facts.items() if value is not None}},
                settings=_settings(wandb, options),
            )
        except wandb.errors.Error as error:
            # Else its service would hold the run's id against another try.
            wandb.teardown(exit_code=1)
            raise Unreachable(first_line(error)) from None
        if is_online:
            self._note(url=self._run.url)
            log.info("wandb       %s", self._run.url)
        self._first_step = int(self._run.starting_step)
        self._step = self._first_step
        self._row: dict[str, Any] = {}
        self.num_sent = 0

    @property
    def url(self) -> str:
        return str(self._run.url)

    def write(self, *, step: int, row: dict[str, float]) -> None:
        if self._is_wanted(step):
            self._row.update(row)

    def show(self, medium: Medium) -> None:
        wandb = _import_wandb()
        if not self._is_wanted(medium.step):
            return
        try:
            if medium.kind is Kind.picture:
                self._row[medium.name] = wandb.Image(str(medium.path), caption=medium.caption)
            else:
                columns, rows = medium.table()
                self._row[medium.name] = wandb.Table(columns=[*columns], data=rows, allow_mixed_types=True)
        except (OSError, ValueError):  # cut meanwhile by another attempt of this run, or damaged
            return

    def flush(self) -> None:
        """W&B sees to that by itself."""

    def close(self, run: RunRecord) -> None:
        """Send the last step too if the run is finished, and its summary; wait for W&B.

        Raises:
            TimeoutError: that took longer than `finish_s`.
        """
        newest = newest_step(run)
        is_whole = run.summary.get("steps") == newest
        if is_whole:
            self._send_row()
            self._run.summary.update(run.summary)
        self._run.finish(exit_code=0 if is_whole else 1)
        if self._options.mode == "online":
            self._note(sent_step=newest if is_whole else None)

    def _is_wanted(self, step: int) -> bool:
        """Return whether a step is to be sent; a later one than before sends the row of that one.

        A picture that was drawn late, when a later step was shown already, goes with that one: W&B takes no step back.
        """
        if step < self._first_step:
            return False
        if step > self._step:
            self._send_row()
            self._step = step
        return True

    def _send_row(self) -> None:
        if self._row:
            self._run.log(self._row, step=self._step, commit=True)
            self._row = {}
            self.num_sent += 1

    def _note(self, **facts: Any) -> None:
        self._known |= {"project": self._run.project, "entity": self._run.entity, **facts}
        publish_json(self._folder / WANDB_FILE, self._known)


def known_of(folder: Path) -> dict[str, Any]:
    """Return what wandb.json says of a run: its id at W&B, made here if it has none, and what was sent where."""
    path = folder / WANDB_FILE
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        known = {}
    if isinstance(known, dict) and ID_PATTERN.fullmatch(str(known.get("id"))):
        return known
    known = {"id": "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))}
    publish_json(path, known)
    return known


def newest_step(run: RunRecord) -> int | None:
    """Return the newest step of the record's numbers."""
    return max((series.steps[-1] for series in run.series.values()), default=None)


def _settings(wandb: Any, options: WandbOptions) -> Any:
    settings = wandb.Settings(
        console="off",
        silent=True,
        x_disable_stats=options.trainer is None,
        disable_job_creation=True,
    )
    if options.trainer is not None:
        settings.x_stats_pid = options.trainer
    else:  # this machine is not the one that trained
        settings.x_disable_meta = True
        settings.x_save_requirements = False
    if options.finish_s is not None:
        # A little less than whoever waits for this process will wait.
        settings.finish_timeout = max(0.5, options.finish_s - 2)
        settings.finish_timeout_raises = True
    return settings


def _import_wandb() -> Any:
    # It is slow to import, and reads these when it is. Reports on itself need the network, also offline.
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb
