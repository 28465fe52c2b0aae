"""The table of docs/jetson.md, from `benchmarks/results/host_check.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from int8_tables import origin

Result = Mapping[str, Any]


def host_check(result: Result) -> str:
    """What NVIDIA's builder makes of every candidate; rows that differ in nothing but the kind of input are one."""
    lines = [
        "| model | built for | candidate | kernels | INT8 products | INT8 convolutions | fused attentions (INT8) | "
        "softmaxes left |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    shown: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in result["rows"]:
        key = (row["model"], row["compute_capability"], row["candidate"])
        shown.setdefault(key, {})[row["input"]] = _structure(row)
    for (model, capability, candidate), kinds in shown.items():
        same = len(set(kinds.values())) == 1
        named = {model if same else f"{model}, {kind}": form for kind, form in kinds.items()}
        lines += [f"| {name} | {capability} | `{candidate}` | {form} |" for name, form in named.items()]
    reference = ", ".join(f"{name} {kernels}" for name, kernels in result["reference"].items())
    facts = (
        "Input as uint8 pixels and as floats, which differ only where two rows say so. The same builder on a plain "
        f"export of ViT-Ti, for comparison: {reference} kernels."
    )
    return "\n".join([*lines, "", facts, "", origin(result)])


def _structure(row: Mapping[str, Any]) -> str:
    if row["kernels"] is None:
        return f"**no**: {row['error']} | - | - | - | -"
    counts = [row[name] for name in ("kernels", "int8_gemms", "int8_convolutions")]
    return " | ".join([*map(str, counts), f"{row['fused_mha']} ({row['int8_mha']})", str(row["unfused_softmax"])])
