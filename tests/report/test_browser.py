"""The page in a real browser: nothing complains, nothing is asked for, nothing stands outside of its box."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgemim.report.html import write_html
from tests.report.conftest import ladder

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "build" / "pictures"
WIDTHS = {"phone": 390, "desk": 1200}
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)

# Put into a copy of the page: tells the frame around it what is wrong.
LOOK = """
<script>
addEventListener("load", () => {
  const wrong = [];
  const tell = (what, element) =>
    wrong.push(`${what}: <${element.tagName}> ${(element.textContent || "").trim().slice(0, 60)}`);
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) tell(`the page is ${root.scrollWidth} wide`, root);
  const hidden = ".skip, svg, svg *, details:not([open]) > :not(summary), details:not([open]) > :not(summary) *";
  for (const element of document.body.querySelectorAll("*")) {
    if (element.matches(hidden) || !element.getClientRects().length) continue;
    const box = element.getBoundingClientRect(), scroller = element.closest(".scroll");
    const inside = scroller && scroller !== element;
    if (!inside && (box.left < -0.5 || box.right > root.clientWidth + 0.5)) tell("outside of the page", element);
    const clipped = getComputedStyle(element).display !== "inline" && element.scrollWidth > element.clientWidth + 1;
    if (clipped && !element.matches(".scroll, table, table *, .unseen")) tell("wider than its box", element);
  }
  for (const svg of document.querySelectorAll("svg")) {
    if (!svg.getClientRects().length) continue;
    const outer = svg.getBoundingClientRect();
    for (const text of svg.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      const out = box.left < outer.left - 2 || box.right > outer.right + 2 || box.top < outer.top - 2;
      if (out || box.bottom > outer.bottom + 2) tell("outside of its chart", text);
      if (parseFloat(getComputedStyle(text).fontSize) * outer.width / svg.viewBox.baseVal.width < 9) tell("tiny", text);
    }
  }
  const asked = performance.getEntriesByType("resource").map(entry => entry.name);
  parent.postMessage({name: document.title, width: root.clientWidth, wrong, asked, charts:
    [...document.querySelectorAll("svg")].filter(svg => svg.getClientRects().length).length}, "*");
});
</script>
"""
FRAMES = """<!doctype html><body><pre id="found"></pre><script>
const found = [];
addEventListener("message", message => {
  found.push(message.data);
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>%s</body>"""


@pytest.fixture
def chromium(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a headless browser with an empty profile; its console is on stderr."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = ["chromium", *QUIET, profile, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    return run


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the console said."""
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture
def pages(request: pytest.FixtureRequest, sensitivity: Path) -> dict[str, Path]:
    """A page of every kind of report."""
    found = {}
    for kind in ("dressed", "compared", "swept", "boards"):
        folder = request.getfixturevalue(kind)
        full = {"parity": ladder(), "sensitivity": sensitivity} if kind == "dressed" else {}
        found[kind] = write_html(folder, **full)
    return found


@pytest.mark.system("chromium", "chromium")
def test_nothing_leaves_its_box_or_the_page_on_a_phone_and_on_a_desk(
    pages: dict[str, Path], chromium: Callable[..., Any], tmp_path: Path
) -> None:
    frames = ""
    for kind, page in pages.items():
        # The page forbids every script; its copy allows this one.
        text = page.read_text("utf-8").replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
        (tmp_path / f"{kind}.html").write_text(text.replace("</body>", f"{LOOK}</body>"), "utf-8")
        for width in WIDTHS.values():
            frames += f'<iframe src="{kind}.html" style="width: {width}px; height: 900px; border: 0"></iframe>'
    (tmp_path / "all.html").write_text(FRAMES % frames)
    done = chromium("--virtual-time-budget=20000", "--dump-dom", f"file://{tmp_path}/all.html")
    told = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert told, done.stderr[-2000:]
    found = json.loads(unescape(told.group(1)))
    assert len(found) == len(pages) * len(WIDTHS)
    assert [entry for entry in found if entry["wrong"] or entry["asked"]] == []
    assert sorted({entry["width"] for entry in found}) == sorted(WIDTHS.values())
    assert sum(entry["charts"] for entry in found) >= 12
    assert complaints(done) == []


@pytest.mark.system("chromium", "chromium")
@pytest.mark.parametrize(("device", "scheme"), [("phone", "dark"), ("desk", "light")])
def test_the_page_is_painted_by_light_and_by_dark(
    dressed: Path, chromium: Callable[..., Any], tmp_path: Path, device: str, scheme: str
) -> None:
    picture = tmp_path / "page.png"
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    window = f"--window-size={WIDTHS[device]},1600"
    done = chromium(*dark, window, f"--screenshot={picture}", f"file://{write_html(dressed)}")
    assert complaints(done) == []
    image = Image.open(picture).convert("L")
    assert image.size == (WIDTHS[device], 1600)
    # The page's own colour at its edge, and something painted on it.
    edge = image.getpixel((2, 2))
    assert edge < 64 if scheme == "dark" else edge > 240
    assert len(image.getcolors(256) or ()) > 50
    PICTURES.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(picture, PICTURES / f"report-{device}-{scheme}.png")


@pytest.mark.system("chromium", "chromium")
def test_the_look_sees_what_stands_outside(chromium: Callable[..., Any], tmp_path: Path) -> None:
    body = '<div style="width: 900px">wide</div><svg viewBox="0 0 9 9" width="90"><text x="90">out</text></svg>'
    (tmp_path / "bad.html").write_text(f"<!doctype html><title>bad</title><body>{body}{LOOK}</body>")
    (tmp_path / "all.html").write_text(FRAMES % '<iframe src="bad.html" style="width: 390px; border: 0"></iframe>')
    done = chromium("--virtual-time-budget=5000", "--dump-dom", f"file://{tmp_path}/all.html")
    assert all(words in done.stdout for words in ("the page is 9", "outside of the page", "outside of its chart"))
