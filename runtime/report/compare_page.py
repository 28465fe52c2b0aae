"""A comparison as a page of text: each measured, then each pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgemim.runtime.report.accuracy_table import accuracy_part
from edgemim.runtime.report.cells import Row, doubts, facts, number, paragraphs, sentence, table

_ENTRIES = ("label", "candidate", "precision", "backend", "version", "p50 ms", "p90 ms", "p99 ms", "runs", "top-1")
_PAIRS = ("a", "b", "time of a / time of b", "interval", "rounds", "difference")
_WORDS = {
    "slower": "a is slower",
    "faster": "a is faster",
    "none": "none that matters",
    "unclear": "unclear: measure for longer",
}


def compare_page(report: Mapping[str, Any]) -> str:
    """The report in markdown."""
    entries, pairs, remarks = report["entries"], report["pairs"], doubts(report)
    parts = [
        f"# {' and '.join(entry['label'] for entry in entries)}, compared",
        f"**{sentence(report['verdict'])}**",
        "## Measured",
        table(_ENTRIES, map(_entry, entries)),
        "## Differences",
        table(_PAIRS, map(_pair, pairs)),
        pairs_note(pairs),
        *accuracy_part([{**entry, "name": entry["label"]} for entry in entries], against="the first"),
        "## Before you trust it" if remarks else "",
        "\n".join(f"- {sentence(remark)}" for remark in remarks),
        "## Device",
        table(("fact", "value"), facts(report["device"])),
        "## Protocol",
        table(("setting", "value"), facts(report["protocol"])),
    ]
    return paragraphs(parts)


def difference(pair: Row) -> str:
    """Whether and how a differs from b, in words."""
    return _WORDS[pair["difference"]]


def pairs_note(pairs: list[Row]) -> str:
    """How to read the intervals."""
    if not pairs:
        return ""
    return (
        "All took turns on this machine, in many short rounds. The ratio is the middle mean of the rounds' ratios, the "
        f"interval a block bootstrap at {pairs[0]['level']:.1%}; a difference counts if it lies beyond 1 % either way."
    )


def _entry(entry: Row) -> tuple[str, ...]:
    latency, accuracy = entry["latency"] or {}, entry.get("accuracy") or {}
    return (
        entry["label"],
        entry["candidate"],
        entry["precision"],
        entry["backend"],
        str(entry["version"]),
        *(number(latency.get(key), 3) for key in ("p50_ms", "p90_ms", "p99_ms")),
        number(latency.get("n"), 0),
        number(accuracy.get("top1"), 4),
    )


def _pair(pair: Row) -> tuple[str, ...]:
    return (
        str(pair["a"]),
        str(pair["b"]),
        number(pair["ratio"], 3),
        f"{number(pair['low'], 3)} to {number(pair['high'], 3)}",
        number(pair["n"], 0),
        difference(pair),
    )
