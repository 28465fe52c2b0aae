"""The table of docs/sweep.md, from `benchmarks/results/sweep.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from int8_tables import origin

Result = Mapping[str, Any]
Entry = Mapping[str, Any]


def sweep(result: Result) -> str:
    """Every entry of the sweep, the front first, and the verdict."""
    front, entries = result["front"], result["entries"]
    order = [*front, *(i for i in range(len(entries)) if i not in front)]
    lines = [
        "| model | candidate | backend | parameters | MB | p50 ms, alone | p50 ms, side by side | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_row(entries[i], on_front=i in front) for i in order]
    verdict = f"The command's last line: *{result['verdict']}*"
    marks = (result["environment"] or {}).get("marks") or []
    state = f"In the final: {'; '.join(marks)}." if marks else "Nothing speaks against the numbers of the final."
    return "\n".join([*lines, "", f"{verdict}. {state}", "", origin(result)])


def _row(entry: Entry, *, on_front: bool) -> str:
    notes = [
        "front" if on_front else "",
        "fits" if entry["fits"] else "",
        entry["error"] or "",
    ]
    cells = (
        f"`{entry['model']}`",
        f"`{entry['candidate'] or entry['precision'] or '-'}`",
        entry["backend"] or "-",
        f"{entry['parameters'] / 1e6:.2f} M",
        "-" if entry["size_bytes"] is None else f"{entry['size_bytes'] / 1e6:.1f}",
        _p50(entry["latency"]),
        _p50(entry["side_by_side"]),
        ", ".join(note for note in notes if note),
    )
    return f"| {' | '.join(cells)} |"


def _p50(latency: Mapping[str, Any] | None) -> str:
    return "-" if latency is None else f"{latency['p50_ms']:.2f}"
