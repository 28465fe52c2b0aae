"""The quickstart's table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HEAD = ("model", "parameters", "top-1", "p50 ms", "p99 ms", "file MB", "backend")


def quickstart_table(result: Mapping[str, Any]) -> str:
    """Markdown: teacher, student from the teacher, student without, and the student in INT8."""
    fp32, int8 = result["fp32"], result["int8"]
    student, alone, teacher = result["student"], result["student_without_teacher"], result["teacher"]
    rows = [
        ("teacher (MAE, fine-tuned), fp32", teacher["parameters"], teacher["top1"], teacher),
        ("student distilled, fp32", student["parameters"], student["top1"], fp32),
        ("same student, same steps, no teacher", alone["parameters"], alone["top1"], None),
        ("student distilled, int8", student["parameters"], int8["top1"], int8),
    ]
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + " --- |" * len(_HEAD)]
    lines += ["| " + " | ".join(_cells(*row)) + " |" for row in rows]
    return "\n".join(lines)


def _cells(name: str, parameters: int, top1: float | None, measured: Mapping[str, Any] | None) -> tuple[str, ...]:
    shown = (name, f"{parameters / 1e6:.2f} M", _number(top1, 4))
    if measured is None:
        return (*shown, "-", "-", "-", "-")
    return (
        *shown,
        _number(measured["p50_ms"], 3),
        _number(measured["p99_ms"], 3),
        f"{measured['size_bytes'] / 1e6:.2f}",
        str(measured["backend"]),
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
