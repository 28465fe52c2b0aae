"""The tables in the documents are made from the committed results, never typed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "tables.py"


def test_the_documents_show_what_the_results_say() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", ["README.md", "benchmarks/README.md", "docs/backbones.md", "docs/methods.md"])
def test_every_table_has_rows_and_an_origin_or_says_what_is_missing(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    places = text.split("<!-- table: ")[1:]
    assert places
    for place in places:
        table = place.split("<!-- end -->")[0]
        if table.endswith("-->\nNot yet measured.\n"):  # a part of a file that is there
            continue
        missing = re.search(r"Not yet measured: there is no `([^`]+)`", table)
        if missing:
            assert not (ROOT / missing.group(1)).exists()
            continue
        assert table.count("\n| ") >= 3
        assert "Made by `" in table
