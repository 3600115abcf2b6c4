"""The card in a real browser: what it asks the network for, what its console says, and how it fits screens."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from card_sets import facts_of, write_set
from PIL import Image

from data_prep.card.page import make_card
from data_prep.card.sizes import SizeHistogram
from loopback import QuietHandler, listening
from pipeline.shards.record import PackedLayout
from tiny_data import random_pixels

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; `apt-get install chromium`"),
]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
MAGENTA = (250, 3, 247)
WIDTHS = (320, 390, 768, 1280)
# Opens the card in frames of several widths and writes what it finds there into its own page.
FRAMES = f"""<!DOCTYPE html><link rel="icon" href="data:,"><pre id="found"></pre><script>
const found = {{}};
for (const width of {list(WIDTHS)}) {{
  const frame = document.createElement("iframe");
  frame.style.width = width + "px";
  frame.style.height = "3000px";
  frame.onload = () => {{
    const page = frame.contentDocument;
    found[width] = {{
      overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
      images: [...page.images].filter(image => image.complete && image.naturalWidth > 0).length,
      requests: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name)
        .filter(name => !name.startsWith("data:")),
      text: page.body.innerText,
    }};
    document.getElementById("found").textContent = JSON.stringify(found);
  }};
  frame.src = "card.html";
  document.body.append(frame);
}}
</script>"""


@dataclass
class Site:
    """A server on loopback and what it was asked for."""

    url: str
    asked: list[str]


@contextmanager
def serving(pages: dict[str, str]) -> Iterator[Site]:
    """Give pages out by name."""
    asked: list[str] = []

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            page = pages.get(self.path.lstrip("/"), "").encode()
            self.send_response(200 if page else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

    with listening(Handler) as url:
        yield Site(url=f"{url}/", asked=asked)


def browse(url: str, folder: Path, *options: str) -> tuple[str, list[str]]:
    """Open a page and return what is written to stdout and the lines of its console."""
    profile = folder / f"profile-{len(list(folder.iterdir()))}"
    assert CHROMIUM is not None
    ended = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *options, url], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, re.findall(r"CONSOLE.*", ended.stderr)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> str:
    """40 magenta pictures of 64x64, long names and keys, 70 classes, leakage and rejected items."""
    layout = PackedLayout(height=64, width=64, channels=3)
    pixels = np.full((64, 64, 3), MAGENTA, dtype=np.uint8)
    samples = []
    for k in range(40):
        image = pixels.copy()
        image[0, :, 0] = k
        samples.append((image, k % 70, f"a/folder_with_a_rather_long_name_{k}/" + "x" * 200))
    noise = [(random_pixels(k, height=64, width=64), k, str(k)) for k in range(20)]
    sizes = SizeHistogram()
    for k in range(400):
        sizes.add(100 + 7 * (k * k % 97), 80 + 5 * (k * k % 89))
    data_set = write_set(
        tmp_path_factory.mktemp("set"),
        {"train": [samples], "val": [samples[:7] + noise]},
        classes=[f"class_{'y' * 90}_{k}" for k in range(70)],
        class_ids=[f"n{k:08d}" for k in range(70)],
        packed=layout,
        rejected=[{"split": "train", "source_key": "z" * 300, "reason": "cannot be decoded: " + "w" * 300}] * 9,
        provenance={"seed": 3, "source": {"kind": "folder", "root": "p" * 200}, "layout": {"kind": "packed"}},
        statistics={"mean": [10.0, 20.0, 30.0], "std": [51.0, 51.0, 51.0]},
        source_sizes=sizes,
    )
    return make_card(facts_of(data_set))


@pytest.fixture
def site(card: str) -> Iterator[Site]:
    tempting = card.replace("<main>", '<main><img alt="" src="outside.png"><script src="outside.js"></script>')
    with serving({"card.html": card, "frames.html": FRAMES, "tempting.html": tempting}) as opened:
        yield opened


def test_it_asks_for_nothing_and_its_console_is_silent(site: Site, tmp_path: Path) -> None:
    text, console = browse(site.url + "card.html", tmp_path, "--dump-dom")
    assert console == []
    assert site.asked == ["/card.html"]
    assert "<h1>tiny</h1>" in text


def test_its_policy_would_stop_what_slipped_through(site: Site, tmp_path: Path) -> None:
    _, console = browse(site.url + "tempting.html", tmp_path, "--dump-dom")
    assert len(console) == 2
    assert all("Content Security Policy" in line for line in console)
    assert site.asked == ["/tempting.html"]


def test_it_fits_every_width_and_shows_its_numbers(site: Site, card: str, tmp_path: Path) -> None:
    text, console = browse(site.url + "frames.html", tmp_path, "--dump-dom", "--virtual-time-budget=10000")
    assert console == []
    match = re.search(r'<pre id="found">(.*?)</pre>', text, re.DOTALL)
    assert match is not None
    found = json.loads(unescape(match[1]))
    assert set(found) == set(map(str, WIDTHS))
    for width, told in found.items():
        assert told["overflow"] == 0, width
        assert told["images"] == card.count("<img ")
        assert told["requests"] == []
        assert "7 of 27 val samples (25.9 %) are also in train: leakage" in told["text"]
        assert "40 train and 27 val images, one of 70 classes each" in told["text"]
    assert set(site.asked) == {"/frames.html", "/card.html"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_are_seen_and_the_page_follows_light_and_dark(site: Site, tmp_path: Path, scheme: str) -> None:
    shot = tmp_path / "shot.png"
    preferred = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    browse(site.url + "card.html", tmp_path, f"--screenshot={shot}", "--window-size=1000,1400", preferred)
    pixels_HWC = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    background = pixels_HWC[2, 2].mean()
    assert background > 240 if scheme == "light" else background < 40
    magenta = (abs(pixels_HWC - MAGENTA).max(axis=2) <= 2).sum()
    assert magenta > 20_000
