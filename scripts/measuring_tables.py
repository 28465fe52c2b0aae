"""The tables of docs/measuring.md: what measuring costs, and whether `edgemim compare` tells the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from int8_tables import origin

Result = Mapping[str, Any]

_KINDS = {"same": "itself", "slowed": "itself with 5 % more work"}
_WANTED = {"same": "no difference", "slowed": "the right direction"}


def overhead(result: Result) -> str:
    """Our medians beside the vendors', and what a call of ours costs more than the bare one, with intervals."""
    limits = result["limits"]
    lines = ["| backend | beside | ratio of medians (99.9 % interval) | target |", "| --- | --- | --- | --- |"]
    for name, row in result["medians"].items():
        target = f"within {limits['ratio']:.0%}: {_met(row)}"
        lines.append(
            f"| {name} | {row['versus']} | {row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f}) | {target} |"
        )
    lines += ["", "| backend | the bare call | ours costs more, µs per call (99.9 % interval) | target |"]
    lines += ["| --- | --- | --- | --- |"]
    for row in result["wrapper"]:
        cost = f"{row['cost_us']:.1f} ({row['low_us']:.1f} to {row['high_us']:.1f})"
        target = f"under {limits['us']:g} µs: {_met(row)}"
        lines.append(f"| {row['backend']} | `{row['versus']}` | {cost} | {target} |")
    versions = ", ".join(f"{name} {version}" for name, version in result["runtimes"].items())
    facts = f"`{result['model']}`, fp32, threads: {result['threads']}; the call on a model of four numbers. {versions}."
    return "\n".join([*lines, "", f"{facts}{_state(result['environment'])}", "", origin(result)])


def compare_power(result: Result) -> str:
    """How often each kind of comparison came out as it is."""
    lines = [
        "| a ViT beside | comparisons | work added | found | right | interval, half width (median) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind, row in result["summary"].items():
        said = ", ".join(f"{word} {count}" for word, count in row["said"].items()) or "-"
        right = f"{row['right']} of {row['comparisons']} ({_WANTED[kind]})"
        added = _span(row["injected_share"])
        lines.append(
            f"| {_KINDS[kind]} | {row['comparisons']} | {added} | {said} | {right} | {_width(row['half_width'])} |"
        )
    settings, rows = result["settings"], result["rows"]
    facts = [f"Mode `{settings['mode']}`, ONNX Runtime, {settings['threads']} thread.", _busy(rows), *_left_out(rows)]
    origins = [origin(part) for part in result["parts"]]
    return "\n".join([*lines, "", " ".join(facts), "", *origins])


def _left_out(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    count = sum(not row["valid"] for row in rows)
    if not count:
        return []
    return [f"{count} more do not count: the work took less than 4.5 % or more than 5.5 % of the model's time there."]


def _busy(rows: Sequence[Mapping[str, Any]]) -> str:
    busy = sum(any("busy" in mark for mark in row["marks"]) for row in rows)
    return f"During {busy} of the {len(rows)} comparisons the machine was marked as busy with other processes."


def _state(environment: Mapping[str, Any] | None) -> str:
    marks = (environment or {}).get("marks") or []
    return f" Marked meanwhile: {'; '.join(marks)}." if marks else ""


def _width(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _span(shares: Sequence[float] | None) -> str:
    return "none" if shares is None else f"{shares[0]:.1%} to {shares[1]:.1%}"


def _met(row: Mapping[str, Any]) -> str:
    """A ratio that is not known well enough has not met its target; nor has it missed it."""
    return "met" if row["met"] else "missed" if row["decided"] else "not known"
