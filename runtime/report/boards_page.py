"""A check on several boards as a page of text: a row for each, with a link to its own page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgemim.errors import EXIT_GATE_MISSED
from edgemim.runtime.report.cells import Row, number, paragraphs, sentence, table

_HEAD = ("device", "board", "ships", "backend", "p50 ms", "p99 ms", "top-1", "")


def boards_page(report: Mapping[str, Any]) -> str:
    """The report in markdown."""
    rows = report["devices"]
    links = [f"- {row['device']}: [{row['folder']}/report.md]({row['folder']}/report.md)" for row in rows]
    parts = [
        f"# {len(rows)} boards: {'passed' if report['passed'] else 'failed'}",
        f"**{sentence(report['verdict'])}**",
        f"Bundle `{report['bundle'][:16]}`.",
        table(_HEAD, map(_cells, rows)),
        "\n".join(link for link, row in zip(links, rows, strict=True) if row["folder"]),
    ]
    return paragraphs(parts)


def board_state(row: Row) -> str:
    """`passes`, or what went wrong."""
    if row["passed"]:
        return "passes"
    return row["error"] or ("misses a gate" if row["exit_code"] == EXIT_GATE_MISSED else "nothing runs right")


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row["device"],
        row["board"] or "-",
        row["chosen"] or "-",
        row["chosen_backend"] or "-",
        *(number(row[key], 3) for key in ("p50_ms", "p99_ms")),
        number(row["top1"], 4),
        board_state(row),
    )
