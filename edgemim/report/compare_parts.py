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
from edgemim.report.provenance_part import chain
from edgemim.report.source import Source
from edgemim.report.trace import trace
from edgemim.runtime.report.accuracy_table import COLUMNS, accuracy_notes
from edgemim.runtime.report.cells import any_has, number
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
    parts = [
        Part(name="differences", title="Differences", content=differences),
        Part(name="measured", title="Measured", content=measured),
        _answers(shown),
        environment_part(source),
        Part(name="provenance", title="Where it comes from", content=chain(source.artifact.provenance)),
    ]
    return [part for part in parts if part is not None]


def _answers(shown: Sequence[Look]) -> Part | None:
    """What each answers on the same images, against the first; None where that was not measured."""
    told = [column for column in COLUMNS if any_has([look.row for look in shown], "accuracy", column[0])]
    if not told:
        return None
    columns = (Column(name="what", kind=""), Column(name="top-1"), *(Column(name=name) for _, name, _ in told))
    lines = [
        ("", [named(look), number(accuracy.get("top1"), 4), *(cell(accuracy) for _, _, cell in told)])
        for look in shown
        if (accuracy := look.row.get("accuracy") or {})
    ]
    notes = tag("p", accuracy_notes([look.row for look in shown], against="the first"), class_="note")
    caption = "Of the same images, in pairs with the first: what it lost, and which of its answers changed."
    content = join([table(columns, lines, caption=caption), notes])
    return Part(name="accuracy", title="Accuracy", content=content)


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
