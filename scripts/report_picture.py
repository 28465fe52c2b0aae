"""Photograph a report's page for the README: on a desk by light, and on a phone by dark.

    python scripts/report_picture.py runs/report [--out docs/report.png]

The README's is of a ViT that was fine-tuned on CIFAR-10, on a machine that did nothing else:

    edgemim export runs/classifier --target x86 --evaluation-count 2000 --gate top1.max_drop=0.01 --out runs/bundle
    edgemim check runs/bundle --mode standard --threads 1 --out runs/report

Needs the extra `report` for the page, and the Debian package chromium, which opens it without a network.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from edgemim.report.html import PAGE, write_html

DESK, PHONE, HEIGHT = 1120, 390, 1330
GAP, BACKGROUND = 32, (214, 219, 225)
BROWSER = (
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
)
DARK = "--blink-settings=preferredColorScheme=0"


def main() -> None:
    """Take both pictures, put them side by side, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="folder of a report; its page is written if there is none")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "report.png")
    chosen = parser.parse_args()
    page = chosen.report / PAGE
    if not page.exists():
        write_html(chosen.report)
    desk, phone = photograph(page, DESK), photograph(page, PHONE, DARK)
    whole = Image.new("RGB", (DESK + PHONE + 3 * GAP, HEIGHT + 2 * GAP), BACKGROUND)
    whole.paste(desk, (GAP, GAP))
    whole.paste(phone, (DESK + 2 * GAP, GAP))
    whole.save(chosen.out, optimize=True)
    print(chosen.out)


def photograph(page: Path, width: int, *options: str) -> Image.Image:
    """The top of the page in a window so wide."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "page.png"
        window = (f"--user-data-dir={folder}/profile", f"--window-size={width},{HEIGHT}", f"--screenshot={out}")
        subprocess.run(
            [*BROWSER, *options, *window, page.resolve().as_uri()], check=True, capture_output=True, timeout=120
        )
        return Image.open(out).convert("RGB")


if __name__ == "__main__":
    main()
