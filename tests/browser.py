"""A real browser, headless: pages are opened in it, and what they did is kept.

    @pytest.fixture(scope="module")
    def browser() -> Iterator[Browser]:
        with chromium() as browser:
            yield browser

    def test_a_page_draws_its_curve(browser: Browser, tmp_path: Path) -> None:
        with visiting(browser, (tmp_path / "page.html").as_uri(), width=375) as visit:
            expect(visit.page.get_by_text("train/loss")).to_be_visible()
            assert ink_frac(visit.page.locator("canvas").first) > 0.001
            assert not scrolls_sideways(visit.page)
        assert not visit.errors
        assert not visit.foreign

The browser is the machine's own, driven by playwright. While `chromium()` is open no other event loop can run in this
thread, so the fixture is a module's, not the session's.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 30_000
OWN_HOSTS = ("127.0.0.1", "localhost", "::1")

# The share of pixels that differ from the upper left one.
INK_FRAC = """canvas => {
    const pixels = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
    return pixels.filter(pixel => pixel !== pixels[0]).length / pixels.length;
}"""


@dataclass(slots=True, kw_only=True)
class Visit:
    """A page that is open, and what it did since: errors that it told or raised, and the addresses that it asked."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def foreign(self) -> list[str]:
        """Addresses on the network that are not this machine's."""
        parts = [(address, urlsplit(address)) for address in self.requests]
        return [address for address, split in parts if split.netloc and split.hostname not in OWN_HOSTS]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a browser for the block; where there is none the test skips."""
    api = pytest.importorskip("playwright.sync_api", reason="no playwright here (pip install playwright)")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no chromium here (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visiting(
    browser: Browser, address: str, *, width: int = 1280, height: int = 900, dark: bool = False
) -> Iterator[Visit]:
    """Open a page, loaded when the block begins and closed at its end."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", accept_downloads=False
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    visit = Visit(page=page)
    page.on("console", lambda message: message.type == "error" and visit.errors.append(message.text))
    page.on("pageerror", lambda error: visit.errors.append(str(error)))
    page.on("request", lambda request: visit.requests.append(request.url))
    page.on("websocket", lambda socket: visit.requests.append(socket.url))
    try:
        page.goto(address)
        yield visit
    finally:
        context.close()


def ink_frac(canvas: Locator) -> float:
    """Return the share of a canvas that is drawn on, 0 for a blank one."""
    return float(canvas.evaluate(INK_FRAC))


def scrolls_sideways(page: Page) -> bool:
    """Return whether the page is wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))
