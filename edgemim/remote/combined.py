"""One report on several boards: a row for each, its own report in a folder beside.

report.json, report.md      the verdict and the rows
me@nano/report.json ...     what the board wrote, as it came
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemim.artifact import Artifact, create_artifact, write_text
from edgemim.errors import EXIT_GATE_MISSED, EXIT_OK, EdgemimError
from edgemim.remote.address import Address
from edgemim.runtime.report.read import REPORT, SCHEMA_VERSION, read_report

_HEAD = ("device", "board", "ships", "backend", "p50 ms", "p99 ms", "top-1", "")


@dataclass(frozen=True, kw_only=True)
class Board:
    """What one board gave: a report, or the error that ended its check."""

    address: Address
    folder: str
    result: Artifact | EdgemimError


def write_combined(out: Path, bundle: Artifact, boards: Sequence[Board], *, overwrite: bool = False) -> dict[str, Any]:
    """Write the report on all boards; at least one of them has a report of its own.

    Returns:
        What was written to `report.json`: `verdict`, `passed` (every board does), `exit_code` (the highest of theirs),
        `bundle` (its fingerprint) and `devices`, in the order of `boards`.

    Raises:
        OutputError: `out` exists, or cannot be written.
    """
    rows = [_row(board) for board in boards]
    passing = sum(row["passed"] for row in rows)
    report = {
        "schema_version": SCHEMA_VERSION,
        "verdict": f"{passing} of {len(rows)} boards pass; {_sentence(rows)}",
        "passed": passing == len(rows),
        "exit_code": max(row["exit_code"] for row in rows),
        "bundle": bundle.fingerprint,
        "devices": rows,
    }
    with create_artifact(out, "report", overwrite=overwrite) as draft:
        for board in boards:
            if isinstance(board.result, Artifact):
                shutil.copytree(board.result.path, draft.folder / board.folder)
        write_text(draft.path(REPORT), json.dumps(report, indent=2, allow_nan=False) + "\n")
        write_text(draft.path("report.md"), _render(report))
        draft.content = {key: report[key] for key in ("verdict", "passed", "bundle")}
        draft.provenance = [dict(record) for record in bundle.provenance]
        devices = [board.address.text for board in boards]
        draft.record("check", bundle=bundle.fingerprint, passed=report["passed"], devices=devices)
    return report


def _row(board: Board) -> dict[str, Any]:
    row: dict[str, Any] = {"device": board.address.text, "folder": None, "error": None, "passed": False}
    row |= dict.fromkeys(("board", "verdict", "chosen", "chosen_backend", "p50_ms", "p99_ms", "top1"))
    if isinstance(board.result, EdgemimError):
        return row | {"exit_code": board.result.exit_code, "error": str(board.result)}
    report = read_report(board.result.path)
    chosen = [
        candidate
        for candidate in report["candidates"]
        if (candidate["name"], candidate["backend"]) == (report["chosen"], report["chosen_backend"])
    ]
    if chosen:
        latency, accuracy = chosen[0]["latency"] or {}, chosen[0]["accuracy"] or {}
        row |= {"p50_ms": latency.get("p50_ms"), "p99_ms": latency.get("p99_ms"), "top1": accuracy.get("top1")}
    device = report["device"]
    return row | {
        "folder": board.folder,
        "exit_code": EXIT_OK if report["passed"] else EXIT_GATE_MISSED,
        "board": device["board"] or device["cpu"] or device["machine"],
        **{key: report[key] for key in ("passed", "verdict", "chosen", "chosen_backend")},
    }


def _sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    ships = [
        f"{row['device']} ships {row['chosen']} on {row['chosen_backend']}" for row in rows if row["chosen"] is not None
    ]
    others = [
        f"{row['device']} {'misses a gate' if row['error'] is None else 'failed'}" for row in rows if not row["passed"]
    ]
    return ", ".join(ships + others)


def _render(report: Mapping[str, Any]) -> str:
    rows = report["devices"]
    lines = [_HEAD, ("---",) * len(_HEAD), *map(_cells, rows)]
    table = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    own = [
        f"- {row['device']}: [{row['folder']}/report.md]({row['folder']}/report.md)" for row in rows if row["folder"]
    ]
    return (
        "\n\n".join(
            [
                f"# {len(rows)} boards: {'passed' if report['passed'] else 'failed'}",
                f"**{report['verdict']}.**",
                f"Bundle `{report['bundle'][:16]}`.",
                table,
                "\n".join(own),
            ]
        )
        + "\n"
    )


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    state = "passes" if row["passed"] else row["error"] or "misses a gate"
    return (
        row["device"],
        row["board"] or "-",
        row["chosen"] or "-",
        row["chosen_backend"] or "-",
        *("-" if row[key] is None else f"{row[key]:.3f}" for key in ("p50_ms", "p99_ms")),
        "-" if row["top1"] is None else f"{row['top1']:.4f}",
        state,
    )
