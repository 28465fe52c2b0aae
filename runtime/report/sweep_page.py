"""A sweep as a page of text: the front first, then everything that was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemim.runtime.report.cells import Row, doubts, facts, number, paragraphs, sentence, table, with_error

_HEAD = ("model", "from", "input", "candidate", "backend", "p50 ms", "p99 ms", "top-1", "parameters", "MB", "")


def sweep_page(report: Mapping[str, Any]) -> str:
    """The report in markdown."""
    entries, front, remarks = report["entries"], report["front"], doubts(report)
    reasons = dict.fromkeys(entry["accuracy_reason"] for entry in entries if entry.get("accuracy_reason"))
    others = [entry for index, entry in enumerate(entries) if index not in front]
    budget = ", ".join(f"{name} {value}" for name, value in report["budget"].items() if value is not None)
    parts = [
        f"# {models_in_words(entries)} for {report['target']}",
        f"**{sentence(report['verdict'])}**",
        f"Budget: {budget}." if budget else "",
        "## The front",
        table(_HEAD, (_cells(entries[index]) for index in front)) if front else "Nothing was measured.",
        "Nothing that was measured is both faster and better than one of these.",
        "## The others" if others else "",
        table(_HEAD, map(_cells, others)) if others else "",
        "\n".join(f"- {sentence(reason)}" for reason in reasons),
        "## Before you trust it" if remarks else "",
        "\n".join(f"- {sentence(remark)}" for remark in remarks),
        "## Device",
        table(("fact", "value"), facts(report["device"])),
    ]
    return paragraphs(parts)


def latency_of(entry: Row) -> Any:
    """The latency that counts: side by side with the other finalists where there is one; None without any."""
    return entry.get("side_by_side") or entry["latency"]


def models_in_words(entries: Sequence[Row]) -> str:
    """`1 model`, `3 models`."""
    count = len({entry["model"] for entry in entries})
    return f"{count} model{'s' * (count > 1)}"


def size_in_words(entry: Row) -> str:
    """`224`, or `224x192`."""
    sides = dict.fromkeys(entry["input"] or ())
    return "x".join(map(str, sides if len(sides) == 1 else entry["input"] or ())) or "-"


def _cells(entry: Row) -> tuple[str, ...]:
    latency, accuracy = latency_of(entry) or {}, entry["accuracy"] or {}
    size, parameters = entry["size_bytes"], entry["parameters"]
    return (
        entry["model"],
        entry["source"],
        size_in_words(entry),
        entry["candidate"] or "-",
        entry["backend"] or "-",
        *(number(latency.get(key), 3) for key in ("p50_ms", "p99_ms")),
        with_error(accuracy.get("top1"), accuracy.get("top1_se")),
        "-" if parameters is None else f"{parameters:,}",
        "-" if size is None else f"{size / 1e6:.2f}",
        entry["error"] or _where(entry),
    )


def _where(entry: Row) -> str:
    """Which of its two latencies is shown, and where the other is."""
    shown = ["side by side" if entry.get("side_by_side") else "alone"] if latency_of(entry) else []
    return "; ".join([*shown, *([f"own report: {entry['report']}"] if entry.get("report") else [])])
