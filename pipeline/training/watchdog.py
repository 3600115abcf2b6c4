"""A deadline on progress: ranks that wait for one another for ever end, say which of them is to blame, and restart.

    callbacks=[Watchdog(rank=0, size=8, deadline_s=540, signals=signals, store=open_store()), ...]

    error: no progress for 540 s: waiting for rank 5, saving, or waiting for data, after step 1,207

Training marks its way: data there, forward done, gradients exchanged, step done. All ranks pass the same marks in the
same order, so whoever has passed the fewest is the one that the others wait for. A thread in each rank tells marks and
a pulse to the ranks' common store, by a connection of its own; at the deadline it reads everybody's twice. A pulse
that stands still is a process that is frozen, dead, or cut off. The rank then ends with a code of its own, not zero,
so torchrun ends the others and, with --max-restarts, starts all again from the last checkpoint.

A lost rank also shortens the end of those that were told to go (SIGTERM of torchrun, when one has died) and cannot,
since they wait for it inside a collective.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import pytorch_lightning as pl

from pipeline.training.stop import StopSignals

# "Remote error in protocol" of sysexits.h, the nearest that there is.
EXIT_HUNG = 76
# Between two pulses, and the pulses after which a rank that has shown none is taken for lost.
PULSE_S, LOST_PULSES = 2.0, 4
# Told to go and still there after so long: look whether anybody is lost.
GRACE_S = 4.0
SHOWN_RANKS = 8


class Store(Protocol):
    """What is used of torch.distributed.Store."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def check(self, keys: list[str]) -> bool: ...
    def add(self, key: str, amount: int) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """What a rank says of itself: `marks` it has passed, `pulses` of its watching thread, what it is doing."""

    marks: int
    pulses: int
    doing: str


class Watchdog(pl.Callback):
    """Ends the process when nothing happens for `deadline_s`; the first of the callbacks.

    Args:
        store: common to all ranks, for this thread alone; None: one rank.
    """

    def __init__(self, *, rank: int, size: int, deadline_s: float, signals: StopSignals, store: Store | None) -> None:
        self.rank, self.size, self.deadline_s = rank, size, deadline_s
        self.signals, self._store = signals, store
        self._marks, self._doing, self._step = 0, "starting", 0
        self._marked_s = time.monotonic()
        self._pulses = 0
        self._pulse_s = min(PULSE_S, deadline_s / 10)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def mark(self, doing: str, step: int) -> None:
        """Say that something has been done and what is being done now."""
        self._marks, self._doing, self._step = self._marks + 1, doing, step
        self._marked_s = time.monotonic()

    def start(self) -> None:
        self._marked_s = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=PULSE_S)
            self._thread = None

    def _watch(self) -> None:
        while not self._stopping.wait(self._pulse_s):
            self._tell()
            now_s, told_s = time.monotonic(), self.signals.received_s
            if now_s - self._marked_s > self.deadline_s:
                self._judge(f"no progress for {self.deadline_s:g} s", exit_code=EXIT_HUNG, only_if_lost=False)
            elif self.signals.received and now_s - max(told_s, self._marked_s) > GRACE_S:
                exit_code = 128 + self.signals.received
                self._judge("told to end, which another rank hinders", exit_code=exit_code, only_if_lost=True)

    def _judge(self, what: str, *, exit_code: int, only_if_lost: bool) -> None:
        """End this process, unless it goes on meanwhile, or nobody is lost and that is asked for."""
        marks = self._marks
        before = self._read()
        for _ in range(LOST_PULSES):
            if self._stopping.wait(self._pulse_s):
                return
            self._tell()
        signs = self._read()
        lost = lost_ranks(before, signs)
        if self._marks != marks or (only_if_lost and not lost):
            return
        if self._is_first_to_speak():
            sys.stderr.write(f"error: {what}: {blame(signs, lost)}\n")
        if not only_if_lost and self.rank in behind_ranks(signs, lost):
            faulthandler.dump_traceback(file=sys.stderr)
        sys.stderr.flush()
        os._exit(exit_code)

    def _tell(self) -> None:
        self._pulses += 1
        if self._store is not None:
            sign = Sign(marks=self._marks, pulses=self._pulses, doing=f"{self._doing} {self._step:,}")
            with suppress(RuntimeError, OSError):  # who reads will find that out
                self._store.set(f"sign/{self.rank}", json.dumps(asdict(sign)))

    def _read(self) -> list[Sign | None]:
        """Return every rank's sign; None where there is none, or the store cannot be reached."""
        own = Sign(marks=self._marks, pulses=self._pulses, doing=f"{self._doing} {self._step:,}")
        signs: list[Sign | None] = [own if rank == self.rank else None for rank in range(self.size)]
        if self._store is None:
            return signs
        with suppress(RuntimeError, OSError):
            for rank in range(self.size):
                if rank != self.rank and self._store.check([f"sign/{rank}"]):
                    signs[rank] = Sign(**json.loads(self._store.get(f"sign/{rank}")))
        return signs

    def _is_first_to_speak(self) -> bool:
        try:
            return self._store is None or self._store.add("spoken", 1) == 1
        except (RuntimeError, OSError):
            return True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.mark("in the forward pass of step", trainer.global_step + 1)

    def on_before_backward(self, trainer: pl.Trainer, *_: Any) -> None:
        self.mark("in the backward pass of step", trainer.global_step + 1)

    def on_after_backward(self, trainer: pl.Trainer, *_: Any) -> None:
        self.mark("in the update of step", trainer.global_step + 1)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.mark("saving, or waiting for data, after step", trainer.global_step)

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.mark("evaluating after step", trainer.global_step)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.mark("evaluating after step", trainer.global_step)

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.mark("saving, or waiting for data, after step", trainer.global_step)

    def on_train_end(self, *_: Any) -> None:
        self.stop()

    def on_exception(self, *_: Any) -> None:
        self.stop()


def lost_ranks(before: Sequence[Sign | None], after: Sequence[Sign | None]) -> list[int]:
    """Return the ranks without a pulse between two readings."""
    return [
        rank
        for rank, (old, new) in enumerate(zip(before, after, strict=True))
        if new is None or (old is not None and old.pulses == new.pulses)
    ]


def behind_ranks(signs: Sequence[Sign | None], lost: Sequence[int]) -> list[int]:
    """Return the ranks, of those not lost, that have passed fewer marks than another."""
    marks = {rank: sign.marks for rank, sign in enumerate(signs) if sign is not None and rank not in lost}
    if len(set(marks.values())) < 2:
        return [] if len(marks) > 1 else list(marks)
    return [rank for rank, passed in marks.items() if passed == min(marks.values())]


def blame(signs: Sequence[Sign | None], lost: Sequence[int]) -> str:
    """Return, in a sentence, which ranks the others wait for."""
    if lost:
        seen = next((f"; last seen {sign.doing}" for rank in lost if (sign := signs[rank]) is not None), "")
        return f"no answer from {_named(lost)} (frozen, dead, or cut off{seen})"
    behind = behind_ranks(signs, lost)
    known = [sign for sign in signs if sign is not None]
    if not behind:
        return f"no rank is behind, all are {known[0].doing}: is the network between them in order?"
    return f"waiting for {_named(behind)}, {next(sign.doing for rank in behind if (sign := signs[rank]) is not None)}"


def _named(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:SHOWN_RANKS])) + (" ..." if len(ranks) > SHOWN_RANKS else "")
    return f"rank {shown}"
