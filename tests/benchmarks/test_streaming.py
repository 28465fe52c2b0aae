"""The benchmark of streams: small, once, as a whole; and its table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import streaming
import streaming_tables

from edgemim.data.streams.open import open_stream

RESULT: dict[str, Any] = {
    "command": "python benchmarks/streaming.py",
    "images": 200_000,
    "image_side": 32,
    "size_mb": {"parquet": 207.3, "tar": 409.6},
    "window_mb": 16,
    "rows": [
        {
            "format": "tar",
            "workers": 2,
            "memory_mib": [10.0, 40.4, 41.0, 42.0, 41.2, 41.0, 40.0, 41.0, 41.0, 41.6],
            "peak_mib": 42.0,
            "images_per_s": 3210,
        }
    ],
    "resumed": {"killed_at_step": 390, "steps": 781, "each_image_once": True, "same_batches": True},
    "device": {"cpu": "A processor"},
    "commit": "0123456789abcdef",
}


def test_the_table_shows_memory_on_the_way_and_what_a_resumed_run_saw() -> None:
    text = streaming_tables.streaming(RESULT)
    assert "| tar | 2 | 40, 41, 42 | 42 | 3,210 |" in text
    assert "together they saw each image once, and the same batches, pixel for pixel" in text
    lost = RESULT["resumed"] | {"each_image_once": False, "same_batches": False}
    assert "saw not each image once, and other batches" in streaming_tables.streaming(RESULT | {"resumed": lost})


def test_both_kinds_of_shards_hold_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PER_SHARD", 8)
    folders = streaming.write_shards(tmp_path, 20)
    found = []
    for folder in folders.values():
        index = open_stream(f"stream:{folder}", cache=tmp_path / "cache").train
        assert len(index.shards) == 3
        units = [index.read(unit) for unit in range(len(index.rows))]
        found.append([rows[row] for rows in units for row in range(len(rows))])
    assert found[0] == found[1]
    assert len({*found[0]}) == 20


@pytest.mark.slow
def test_it_measures_and_finds_that_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "streaming.json"
    monkeypatch.setattr(sys, "argv", ["streaming.py", "--images", "3000", "--out", str(out), "--work", str(tmp_path)])
    streaming.main()
    result = json.loads(out.read_text())
    assert [(row["format"], row["workers"]) for row in result["rows"]] == list(streaming.CASES)
    assert result["resumed"]["each_image_once"]
    assert result["resumed"]["same_batches"]
