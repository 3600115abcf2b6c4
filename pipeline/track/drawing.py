"""Drawing beside training: pictures are drawn, packed as PNG and written by one thread, in the order of their asking.

    drawing = Drawing()
    drawing.submit(lambda: metric_log.picture(step=1, name="data/augmented", png=png_of(sheet), caption="..."))
    drawing.finish()                    # before what comes next may say that all of it is there

What is drawn must be plain data of its own: numpy arrays and texts, no tensors (a second thread that uses torch slows
the first) and no buffer that training fills again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

log = logging.getLogger(__name__)


class Drawing:
    """One thread that draws; a picture that fails is left out with a warning, and nothing else happens."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="drawing")
        self._pending: list[Future[None]] = []

    def submit(self, draw: Callable[[], None]) -> None:
        """Have something drawn soon."""
        self._pending = [future for future in self._pending if not future.done()]
        self._pending.append(self._pool.submit(draw_if_possible, draw))

    def finish(self) -> None:
        """Return when everything that was asked for is drawn."""
        for future in self._pending:
            future.result()
        self._pending = []

    def close(self) -> None:
        """Finish, and end the thread."""
        self._pool.shutdown()


def draw_if_possible(draw: Callable[[], None]) -> None:
    """Draw something; where that fails it is left out with a warning."""
    try:
        draw()
    except Exception as error:  # a picture must never end a run
        log.warning("a picture could not be drawn (%s: %s) and is left out", type(error).__name__, error)
