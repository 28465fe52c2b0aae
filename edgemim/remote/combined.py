"""One report on several boards: a row for each, its own report in a folder beside.

report.json, report.md      the verdict and the rows
me@nano/report.json ...     what the board wrote, as it came
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemim import __version__
from edgemim.artifact import Artifact, create_artifact
from edgemim.errors import EXIT_GATE_MISSED, EdgemimError
from edgemim.remote.address import Address
from edgemim.runtime.outcome import exit_code
from edgemim.runtime.report.read import SCHEMA_VERSION, read_report
from edgemim.runtime.report.write import put_report


@dataclass(frozen=True, kw_only=True)
class Board:
    """What one board gave: a report, or the error that ended its check."""

    address: Address
    folder: str
    result: Artifact | EdgemimError


def write_combined(
    out: Path, bundle: Artifact, boards: Sequence[Board], *, judged: bool = True, overwrite: bool = False
) -> dict[str, Any]:
    """Write the report on all boards; at least one of them has a report of its own.

    Args:
        judged: Whether the boards held the bundle to gates; False for a bench, where the fastest stands for the chosen.

    Returns:
        What was written to `report.json`: `verdict`, `passed` (every board does), `exit_code` (the highest of theirs),
        `bundle` (its fingerprint) and `devices`, in the order of `boards`.

    Raises:
        OutputError: `out` exists, or cannot be written.
    """
    rows = [_row(board) for board in boards]
    passing = sum(row["passed"] for row in rows)
    did = "pass" if judged else "were measured"
    report = {
        "schema_version": SCHEMA_VERSION,
        "kind": "boards",
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "edgemim": __version__,
        "verdict": f"{passing} of {len(rows)} boards {did}; {_sentence(rows, judged=judged)}",
        "passed": passing == len(rows),
        "exit_code": max(row["exit_code"] for row in rows),
        "bundle": bundle.fingerprint,
        "devices": rows,
    }
    with create_artifact(out, "report", overwrite=overwrite) as draft:
        for board in boards:
            if isinstance(board.result, Artifact):
                shutil.copytree(board.result.path, draft.folder / board.folder)
        put_report(draft, report)
        draft.content["bundle"] = bundle.fingerprint
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
    best = _best(report)
    if best is not None:
        latency, accuracy = best["latency"] or {}, best["accuracy"] or {}
        row |= {"p50_ms": latency.get("p50_ms"), "p99_ms": latency.get("p99_ms"), "top1": accuracy.get("top1")}
        row |= {"chosen": best["name"], "chosen_backend": best["backend"]}
    device = report["device"]
    return row | {
        "folder": board.folder,
        "exit_code": exit_code(report),
        "board": device["board"] or device["cpu"] or device["machine"],
        **{key: report[key] for key in ("passed", "verdict")},
    }


def _best(report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The row that ships; of a bench, which ships nothing, the fastest."""
    rows = report["candidates"]
    if report["kind"] == "bench":
        timed = [row for row in rows if row["latency"] is not None]
        return min(timed, key=lambda row: float(row["latency"]["p50_ms"]), default=None)
    wanted = (report["chosen"], report["chosen_backend"])
    return next((row for row in rows if (row["name"], row["backend"]) == wanted), None)


def _sentence(rows: Sequence[Mapping[str, Any]], *, judged: bool) -> str:
    does = "ships" if judged else "is fastest with"
    ships = [
        f"{row['device']} {does} {row['chosen']} on {row['chosen_backend']}"
        for row in rows
        if row["chosen"] is not None
    ]
    missed = EXIT_GATE_MISSED
    others = [
        f"{row['device']} {'misses a gate' if row['exit_code'] == missed else 'failed'}"
        for row in rows
        if not row["passed"]
    ]
    return ", ".join(ships + others)
