"""Stopping on a signal: a flag, a vote of all ranks, a checkpoint, and an exit code that says so.

    with StopSignals() as signals:                  # SIGTERM, SIGINT, SIGUSR1, SIGHUP only set signals.received
        trainer = ...(callbacks=[..., checkpoints, StopCallback(signals, checkpoints)])
        trainer.fit(...)                            # raises Stopped, on every rank after the same step

A signal may reach one rank or all, at any moment, also inside a collective; to act on it there would leave the other
ranks waiting (Lightning 2.6 broadcasts from its handler, and hangs when one rank alone is told). So ranks vote: about
twice a second each begins an all-reduce of its flag, on a group of its own on the CPU, and reads the result at the next
vote, when it has long arrived. Nobody waits, all read the same, so all stop after the same step. When the next vote is
follows from what they agreed on, too: the slowest rank's time for a step.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

import pytorch_lightning as pl
import torch
from torch import distributed

from pipeline.training.checkpoint_callback import CheckpointCallback, is_inside_epoch

# "Temporary failure, try again" of sysexits.h: the run was told to stop and has saved; the same command goes on.
EXIT_STOPPED = 75
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
VOTE_EVERY_S = 0.5


class Stopped(Exception):
    """A signal stopped the run after `step`; `is_saved`: with a checkpoint of just that step."""

    def __init__(self, signal_number: int, *, step: int, is_saved: bool) -> None:
        self.signal_number, self.step, self.is_saved = signal_number, step, is_saved
        name = signal.Signals(signal_number).name
        how = "saved; the same command goes on from here" if is_saved else "NOT saved; the checkpoint before it counts"
        super().__init__(f"stopped by {name} after step {step}, {how}")

    @property
    def exit_code(self) -> int:
        """75 where it is saved, else what the signal itself would have given."""
        return EXIT_STOPPED if self.is_saved else 128 + self.signal_number


class StopSignals:
    """While it is open, the signals only set `received`; `received_s` is the moment on the monotonic clock.

    A second Ctrl-C ends at once, and so does any of the signals after a first one: what torchrun sends its ranks at its
    second Ctrl-C is SIGTERM. Signals that whoever started us wants ignored stay ignored.

    Python runs handlers between the main thread's instructions, so never while that waits in a collective; a thread
    therefore hears of signals too.
    """

    def __init__(self) -> None:
        self.received = 0
        self.received_s = 0.0
        self._before: dict[signal.Signals, Any] = {}
        self._arrivals: tuple[int, int] | None = None
        self._wakeup_before = -1
        self._listener: threading.Thread | None = None
        self._is_ending = False

    def __enter__(self) -> Self:
        self._arrivals = os.pipe()
        os.set_blocking(self._arrivals[1], False)
        self._wakeup_before = signal.set_wakeup_fd(self._arrivals[1], warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        self._listener = threading.Thread(target=self._listen, args=(self._arrivals[0],), name="signals", daemon=True)
        self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Stopped):
            self._is_ending = True
            return  # the launcher may send a signal once more while this process ends in its own way
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        arrivals, self._arrivals = self._arrivals, None
        if arrivals is not None and self._listener is not None:
            os.write(arrivals[1], b"\0")  # no signal: it ends the listener
            self._listener.join()
            for descriptor in arrivals:
                os.close(descriptor)
        if self.received and kind is not None:
            os.kill(os.getpid(), self.received)  # we fail, and somebody wants us gone: not for another 30 s

    def _listen(self, descriptor: int) -> None:
        """Hear of each signal as it arrives; a thread's whole life."""
        first = 0
        while number := os.read(descriptor, 1)[0]:
            if number not in STOP_SIGNALS or self._is_ending:
                continue
            if first == signal.SIGINT:
                os._exit(128 + signal.SIGINT)
            first = first or number
            if not self.received:
                self.received, self.received_s = number, time.monotonic()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received, self.received_s = number, time.monotonic()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


class Vote:
    """Finds out, without making anybody wait, whether any rank has received a signal.

    Args:
        group: process group on the CPU that nothing else uses; None: one rank.
    """

    def __init__(self, group: distributed.ProcessGroup | None) -> None:
        self._group = group
        self._ballot = torch.zeros(2, dtype=torch.int64)
        self._work: distributed.Work | None = None
        self._first: tuple[int, float] | None = None
        self._next_step = 0

    def take_part(self, step: int, flag: int) -> int:
        """Return the largest flag of any rank, a little late, or 0; every rank must call it after every step."""
        if self._group is None:
            return flag
        if step < self._next_step:
            return 0
        now_s = time.monotonic()
        agreed = self.result()
        before_step, before_s = self._first or (step, now_s)
        self._first = step, now_s
        # The same on all ranks, as it comes out of the last vote; its own measurement goes into the next one.
        step_us = int(self._ballot[1])
        self._next_step = step + max(1, int(VOTE_EVERY_S * 1e6 / step_us) if step_us else 1)
        mine_us = int((now_s - before_s) / max(1, step - before_step) * 1e6)
        self._ballot = torch.tensor([flag, mine_us], dtype=torch.int64)
        self._work = distributed.all_reduce(self._ballot, op=distributed.ReduceOp.MAX, group=self._group, async_op=True)
        return agreed

    def result(self) -> int:
        """Wait for the vote under way, if there is one, and return its largest flag."""
        if self._work is None:
            return 0
        work, self._work = self._work, None
        work.wait()
        return int(self._ballot[0])


class StopCallback(pl.Callback):
    """Ends training, after a checkpoint, when a vote says that some rank was told to; it comes after `checkpoints`."""

    def __init__(self, signals: StopSignals, checkpoints: CheckpointCallback) -> None:
        self.signals, self.checkpoints = signals, checkpoints
        self._group: distributed.ProcessGroup | None = None
        self._vote = Vote(None)
        self._agreed = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        leave_signals_alone(trainer)
        if trainer.world_size > 1:
            self._group = distributed.new_group(backend="gloo")
            self._vote = Vote(self._group)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop._should_accumulate():
            return
        self._agreed = self._agreed or self._vote.take_part(trainer.global_step, self.signals.received)
        # At the end of an epoch its evaluation comes first, and at the end of all nothing is left to stop.
        if self._agreed and is_inside_epoch(trainer) and trainer.global_step < trainer.max_steps:
            self._stop(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._agreed and trainer.state.fn == "fit" and trainer.global_step < trainer.max_steps:
            self._stop(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._vote.result()

    def _stop(self, trainer: pl.Trainer) -> None:
        self._vote.result()
        self.checkpoints.save(trainer)
        self.checkpoints.writer.wait()
        step = trainer.global_step
        is_saved = torch.tensor([self.checkpoints.writer.stored_step == step])
        # The first rank to end makes the launcher end the others, so all wait until rank 0 has written.
        if self._group is not None:
            distributed.broadcast(is_saved, src=0, group=self._group)
        raise Stopped(self._agreed, step=step, is_saved=bool(is_saved))


def leave_signals_alone(trainer: pl.Trainer) -> None:
    """Switch off Lightning's signal handlers, and the broadcast before every batch that goes with them."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
