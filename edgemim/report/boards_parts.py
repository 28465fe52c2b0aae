"""The page of a check on several boards: a row for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgemim.report.markup import Column, Html, bad, good, join, table, tag
from edgemim.report.page import Part
from edgemim.report.provenance_part import chain
from edgemim.report.source import Source
from edgemim.runtime.report.boards_page import board_state
from edgemim.runtime.report.cells import number, sentence


def boards_title(report: Mapping[str, Any]) -> str:
    """How many boards."""
    return f"{len(report['devices'])} boards, bundle {report['bundle'][:12]}"


def boards_parts(source: Source) -> list[Part]:
    """The table, each board's own verdict, and where the bundle came from."""
    return [
        Part(name="boards", title="Boards", content=join([_table(source.report), *_verdicts(source.report)])),
        Part(name="provenance", title="From images to boards", content=chain(source.artifact.provenance)),
    ]


def _table(report: Mapping[str, Any]) -> Html:
    columns = (
        *(Column(name=name, kind="") for name in ("device", "", "board", "ships", "backend")),
        *(Column(name=name) for name in ("p50 ms", "p99 ms", "top-1")),
    )
    lines = [
        (
            "chosen" if row["passed"] else "",
            [
                row["device"],
                good("passes") if row["passed"] else bad("failed" if row["error"] else "misses a gate"),
                row["board"],
                row["chosen"],
                row["chosen_backend"],
                *(number(row[key], 3) for key in ("p50_ms", "p99_ms")),
                number(row["top1"], 4),
            ],
        )
        for row in report["devices"]
    ]
    return table(columns, lines, caption="One bundle on every board; a board that failed has no numbers.")


def _verdicts(report: Mapping[str, Any]) -> list[Html]:
    found = []
    for row in report["devices"]:
        link = (
            [tag("p", "Its own report: ", tag("code", f"{row['folder']}/report.md"), class_="note")]
            if row["folder"]
            else []
        )
        found += [tag("h3", row["device"]), tag("p", sentence(row["verdict"] or board_state(row))), *link]
    return found
