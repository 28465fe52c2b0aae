"""Rows of `compare_power.py`: which count, which are still to be made, files put together, and their table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import measuring_tables
import pytest
from _parts.power_rows import is_made, is_valid, merged, numbers, part_of, read, summarise

SETTINGS = {"mode": "quick", "width": 64, "slowed_by": 0.05, "threads": 1}


def row(kind: str, number: int, *, share: float | None = 0.05, right: bool = True, part: int = 0) -> dict[str, Any]:
    share = None if kind == "same" else share
    return {
        "kind": kind,
        "number": number,
        "valid": is_valid(kind, share),
        "right": right,
        "difference": "none" if kind == "same" else "slower" if right else "unclear",
        "low": 1.04,
        "high": 1.06,
        "injected_share": share,
        "marks": [],
        "part": part,
    }


def part(command: str, commit: str = "a" * 40, cpus: tuple[int, ...] = (0,)) -> dict[str, Any]:
    return {"command": command, "commit": commit, "cpus": list(cpus), "device": {"cpu": "a CPU"}}


def written(file: Path, rows: list[dict[str, Any]], parts: list[dict[str, Any]], **changes: Any) -> Path:
    file.write_text(json.dumps({"settings": SETTINGS | changes, "rows": rows, "parts": parts}))
    return file


@pytest.mark.parametrize(("share", "valid"), [(0.0449, False), (0.045, True), (0.055, True), (0.0551, False)])
def test_a_row_counts_where_the_work_was_what_it_should_be(share: float, valid: bool) -> None:
    assert is_valid("slowed", share) is valid
    assert is_valid("same", None)


def test_a_row_that_does_not_count_is_to_be_made_again() -> None:
    rows = [row("slowed", 0, share=0.08), row("same", 0)]
    assert not is_made(rows, "slowed", 0)
    assert is_made(rows, "same", 0)
    assert is_made([*rows, row("slowed", 0)], "slowed", 0)


@pytest.mark.parametrize(("text", "found"), [("3", [3]), ("0-4", [0, 1, 2, 3, 4]), ("7-8", [7, 8])])
def test_numbers_of_comparisons(text: str, found: list[int]) -> None:
    assert list(numbers(text)) == found


@pytest.mark.parametrize("text", ["", "4-0", "a", "1-2-3", "-3"])
def test_what_names_no_comparison_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"names no comparison|invalid literal"):
        numbers(text)


def test_a_file_of_other_settings_is_refused_and_none_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "none.json", SETTINGS) == ([], [])
    file = written(tmp_path / "a.json", [], [], width=192)
    with pytest.raises(SystemExit, match=r"is of other settings .*; remove it, or choose another --out"):
        read(file, SETTINGS)


def test_a_later_call_is_the_same_part_only_at_the_same_commit() -> None:
    parts = [part("x")]
    assert part_of(parts, part("x")) == 0
    assert part_of(parts, part("x", commit="b" * 40)) == 1
    assert [found["commit"][0] for found in parts] == ["a", "b"]


def test_files_put_together_keep_what_made_each_row(tmp_path: Path) -> None:
    first = written(tmp_path / "a.json", [row("same", 1), row("slowed", 0)], [part("a")])
    second = written(tmp_path / "b.json", [row("same", 0), row("slowed", 1, part=1)], [part("b"), part("c")])
    settings, rows, parts = merged([first, second])
    assert settings == SETTINGS
    made_by = {(one["kind"], one["number"]): parts[one["part"]]["command"] for one in rows}
    assert made_by == {("same", 0): "b", ("same", 1): "a", ("slowed", 0): "a", ("slowed", 1): "c"}
    assert [one["number"] for one in rows] == [0, 0, 1, 1]


def test_one_comparison_in_two_files_is_refused(tmp_path: Path) -> None:
    files = [written(tmp_path / name, [row("same", 1)], [part(name)]) for name in ("a.json", "b.json")]
    with pytest.raises(SystemExit, match=r"b\.json holds same 1, which another file has too"):
        merged(files)


def test_the_summary_is_of_the_rows_that_count() -> None:
    slowed = [row("slowed", 0, share=0.046), row("slowed", 1, share=0.054, right=False), row("slowed", 2, share=0.09)]
    found = summarise([row("same", 0), *slowed])
    assert found["slowed"] | {"half_width": None} == {
        "comparisons": 2,
        "left_out": 1,
        "right": 1,
        "said": {"slower": 1, "unclear": 1},
        "half_width": None,
        "injected_share": [0.046, 0.054],
    }
    assert found["slowed"]["half_width"] == pytest.approx((1.06 / 1.04 - 1) / 2, abs=1e-5)
    assert (found["same"]["comparisons"], found["same"]["injected_share"]) == (1, None)


def test_the_table_says_how_much_work_was_added_and_what_made_it() -> None:
    rows = [row("same", 0), row("slowed", 0, share=0.046), row("slowed", 1, share=0.09)]
    shown = measuring_tables.compare_power(
        {"settings": SETTINGS, "summary": summarise(rows), "rows": rows, "parts": [part("a"), part("b")]}
    )
    assert "| itself with 5 % more work | 1 | 4.6% to 4.6% | slower 1 | 1 of 1 (the right direction) | 1.0% |" in shown
    assert "1 more do not count" in shown
    assert shown.count("Made by `") == 2
