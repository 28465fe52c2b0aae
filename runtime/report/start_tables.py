"""What it takes to start a candidate, and the memory that it needs, as tables of markdown."""

from __future__ import annotations

from collections.abc import Sequence

from edgemim.runtime.report.cells import Row, any_has, number, sentence, table, why_not

_STARTING = ("candidate", "backend", "compile s", "first run then, ms", "load s", "first run then, ms")
_COLD = (
    "candidate",
    "backend",
    "import s",
    "load s",
    "first run ms",
    "peak MB",
    "of it before loading",
    "on the device MB",
)


def starting_parts(rows: Sequence[Row]) -> list[str]:
    """Compiling, loading and first runs; then cold start and memory in a process of its own, where measured."""
    lines = [
        (
            row["name"],
            row["backend"],
            number(row["compile_s"], 2) + (" (by an earlier run)" if row["compiled_before"] else ""),
            number(row["compile_first_ms"], 1),
            number(row["load_s"], 2),
            number(row["first_ms"], 1),
        )
        for row in rows
    ]
    return ["## Starting", table(_STARTING, lines), *_cold(rows)]


def _cold(rows: Sequence[Row]) -> list[str]:
    notes = " ".join(map(sentence, why_not(rows, ("cold_start", "memory"))))
    if not any_has(rows, "cold_start", "load_s") and not any_has(rows, "memory", "peak_mb"):
        return ["## Cold start and memory", notes] if notes else []
    lines = []
    for row in rows:
        cold, memory = row.get("cold_start") or {}, row.get("memory") or {}
        lines.append(
            (
                row["name"],
                row["backend"],
                number(cold.get("import_s"), 2),
                number(cold.get("load_s"), 2),
                number(cold.get("first_ms"), 1),
                number(memory.get("peak_mb"), 1),
                number(memory.get("base_mb"), 1),
                number(memory.get("device_mb"), 1),
            )
        )
    return [
        "## Cold start and memory",
        table(_COLD, lines),
        "Each in a process of its own that imports what a program needs, engine compiled before. Peak is the most "
        f"resident memory, 10^6 bytes. {notes}".strip(),
    ]
