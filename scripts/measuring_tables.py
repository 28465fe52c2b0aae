"""The tables of docs/measuring.md: what measuring costs, and whether `edgemim compare` tells the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from int8_tables import origin

Result = Mapping[str, Any]

_KINDS = {"same": "itself", "slowed": "itself with 5 % more work"}
_WANTED = {"same": "no difference", "slowed": "the right direction"}


def overhead(result: Result) -> str:
    """Our medians beside the vendors', and what a call of ours costs more than the bare one."""
    limits = result["limits"]
    lines = ["| backend | beside | ratio of medians (rounds) | target |", "| --- | --- | --- | --- |"]
    for name, row in result["medians"].items():
        low, high = row["ratio_range"]
        target = f"within {limits['ratio']:.0%}: {_met(row)}"
        lines.append(f"| {name} | {row['versus']} | {row['ratio']:.3f} ({low:.3f} to {high:.3f}) | {target} |")
    lines += ["", "| backend | the bare call | ours costs more, µs per call | target |", "| --- | --- | --- | --- |"]
    for row in result["wrapper"]:
        target = f"under {limits['us']:g} µs: {_met(row)}"
        lines.append(f"| {row['backend']} | `{row['versus']}` | {row['cost_us']:.1f} | {target} |")
    versions = ", ".join(f"{name} {version}" for name, version in result["runtimes"].items())
    facts = f"`{result['model']}`, fp32, threads: {result['threads']}; the call on a model of four numbers. {versions}."
    return "\n".join([*lines, "", f"{facts}{_state(result['environment'])}", "", origin(result)])


def compare_power(result: Result) -> str:
    """How often each kind of comparison came out as it is."""
    lines = [
        "| a ViT-Ti beside | comparisons | found | right | interval, half width (median) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind, row in result["summary"].items():
        said = ", ".join(f"{word} {count}" for word, count in row["said"].items())
        right = f"{row['right']} of {row['comparisons']} ({_WANTED[kind]})"
        lines.append(f"| {_KINDS[kind]} | {said} | {right} | {_width(row['half_width'])} |")
    settings = result["settings"]
    facts = f"Mode `{settings['mode']}`, ONNX Runtime, {settings['threads']} thread."
    return "\n".join([*lines, "", f"{facts} {_busy(result['rows'])}", "", origin(result)])


def _busy(rows: Sequence[Mapping[str, Any]]) -> str:
    busy = sum(any("busy" in mark for mark in row["marks"]) for row in rows)
    return f"During {busy} of the {len(rows)} comparisons the machine was marked as busy with other processes."


def _state(environment: Mapping[str, Any] | None) -> str:
    marks = (environment or {}).get("marks") or []
    return f" Marked meanwhile: {'; '.join(marks)}." if marks else ""


def _width(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _met(row: Mapping[str, Any]) -> str:
    return "met" if row["met"] else "missed"
