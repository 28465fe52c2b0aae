"""Every gate, held against every candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemim.report.look import Look, named
from edgemim.report.markup import Column, Html, bad, good, plain, table, tag
from edgemim.report.page import Part
from edgemim.runtime.report.check_page import gate_state

_COLUMNS = (
    Column(name="candidate", kind=""),
    Column(name="gate", kind=""),
    Column(name="", kind=""),
    Column(name="measured"),
    Column(name="limit"),
    Column(name="missed by"),
    Column(name="set by", kind=""),
    Column(name="why not measured", kind="free"),
)


def gates_part(shown: Sequence[Look], report: Mapping[str, Any]) -> Part | None:
    """The part; None of a bench, which has no gates."""
    if report["kind"] != "check":
        return None
    if not report["gates"]:
        return Part(name="gates", title="Gates", content=tag("p", "None were set.", class_="lead"))
    pairs = [(look, gate) for look in shown for gate in look.row["gates"]]
    reasons = any(gate["reason"] for _, gate in pairs)
    width = len(_COLUMNS) if reasons else len(_COLUMNS) - 1
    lines = [("chosen" if look.chosen else "", _cells(look, gate, report)[:width]) for look, gate in pairs]
    content = table(_COLUMNS[:width], lines, caption="Every gate, held against every candidate that was timed.")
    return Part(name="gates", title="Gates", content=content)


def _cells(look: Look, gate: Mapping[str, Any], report: Mapping[str, Any]) -> list[object]:
    missed = gate.get("missed_by")
    return [
        named(look),
        gate["name"],
        _word(gate),
        None if gate["value"] is None else f"{gate['value']:.4g}",
        f"{gate['limit']:g}",
        None if missed is None else f"{missed:.3g}",
        report["gates"][gate["name"]]["from"],
        gate["reason"] or "",
    ]


def _word(gate: Mapping[str, Any]) -> Html:
    word = gate_state(gate)
    return good(word) if word == "kept" else bad(word) if word == "missed" else plain(word)
