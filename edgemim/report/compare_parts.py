"""The parts of a comparison's page: the differences first, then what each takes, then the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemim.report.distribution import distribution
from edgemim.report.environment_part import environment_part
from edgemim.report.forest import forest
from edgemim.report.look import Look, entry_looks, legend, named
from edgemim.report.markup import Column, Html, bad, good, join, plain, table, tag
from edgemim.report.page import Part
from edgemim.report.source import Source
from edgemim.report.trace import trace
from edgemim.runtime.report.cells import number
from edgemim.runtime.report.compare_page import difference, pairs_note


def compare_title(report: Mapping[str, Any]) -> str:
    """How many were compared, and where."""
    device = report["device"]
    where = device["board"] or device["cpu"] or device["machine"]
    return f"{len(report['entries'])} compared on {where}"


def compare_parts(source: Source) -> list[Part]:
    """All parts, in the order of the page."""
    report = source.report
    shown = entry_looks(report["entries"])
    differences = join(
        [forest(report["pairs"]), _pairs(report["pairs"]), tag("p", pairs_note(report["pairs"]), class_="note")]
    )
    pictures = [picture for picture in (distribution(shown, source.samples), trace(shown, source.samples)) if picture]
    measured = join([_entries(shown), legend(shown, only_narrow=True), *pictures])
    return [
        Part(name="differences", title="Differences", content=differences),
        Part(name="measured", title="Measured", content=measured),
        environment_part(source),
    ]


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> Html:
    columns = (
        Column(name="a", kind=""),
        Column(name="b", kind=""),
        Column(name="difference", kind=""),
        *(Column(name=name) for name in ("time of a / b", "low", "high", "rounds")),
    )
    lines = [
        (
            "",
            [
                pair["a"],
                pair["b"],
                _word(pair),
                *(number(pair[k], 4) for k in ("ratio", "low", "high")),
                f"{pair['n']:,}",
            ],
        )
        for pair in pairs
    ]
    return table(columns, lines, caption="Every pair; a ratio above 1 means that a is slower.")


def _word(pair: Mapping[str, Any]) -> Html:
    words = difference(pair)
    return {"slower": bad, "faster": good}.get(pair["difference"], plain)(words)


def _entries(shown: Sequence[Look]) -> Html:
    columns = (
        Column(name="what", kind=""),
        Column(name="bundle", kind=""),
        Column(name="precision", kind=""),
        Column(name="runs on", kind=""),
        *(Column(name=name) for name in ("p50 ms", "p90 ms", "p99 ms", "top-1", "runs")),
    )
    lines = []
    for look in shown:
        row = look.row
        latency, accuracy = row["latency"] or {}, row.get("accuracy") or {}
        cells = [
            named(look),
            row["bundle"]["fingerprint"][:12],
            row["precision"],
            f"{row['backend']} {row['version']}",
            *(number(latency.get(key), 3) for key in ("p50_ms", "p90_ms", "p99_ms")),
            number(accuracy.get("top1"), 4),
            number(latency.get("n"), 0),
        ]
        lines.append(("", cells))
    return table(columns, lines, caption="What was compared. Latency of one run, without preprocessing.")
