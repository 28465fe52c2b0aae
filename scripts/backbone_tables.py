"""The table of backbones, as Markdown; `tables.py` reads the result and puts it in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Kept = Mapping[str, Any]

_HEAD = (
    "family",
    "timm name",
    "px",
    "parameters",
    "nodes",
    "export (s)",
    "ONNX Runtime",
    "OpenVINO",
    "NVIDIA fp32",
    "NVIDIA fp16",
)
_STAGES = {
    "export": "cannot be exported",
    "onnxruntime": "is wrong in ONNX Runtime",
    "openvino": "is wrong in OpenVINO, or not run by it",
    "nvidia_fp32": "is not built by NVIDIA's builder as fp32",
    "nvidia_fp16": "is not built by NVIDIA's builder as fp16",
}


def coverage(kept: Kept) -> str:
    """Every backbone, in the order of the list, and by name what one cannot do."""
    rows = sorted(kept["rows"], key=lambda row: str(row["family"]).lower())
    cells = [_HEAD, ["---"] * len(_HEAD), *map(_cells, rows)]
    table = "\n".join("| " + " | ".join(cell) + " |" for cell in cells)
    return "\n\n".join([_counts(rows), table, _failures(rows), _origin(kept)])


def _cells(row: Kept) -> tuple[str, ...]:
    export = row["export"]
    height, width = row["input_size"]
    return (
        row["family"],
        f"`{row['name']}`",
        str(height) if height == width else f"{height} x {width}",
        f"{row['parameters'] / 1e6:.1f} M",
        str(export["nodes"]) if export["reason"] is None else "no",
        f"{export['cpu_seconds']:.0f}" if export["reason"] is None else "",
        *(_difference(row[stage]) for stage in ("onnxruntime", "openvino")),
        *(_kernels(row[stage]) for stage in ("nvidia_fp32", "nvidia_fp16")),
    )


def _difference(stage: Kept | None) -> str:
    if stage is None:
        return ""
    shown = "" if stage["max_abs"] is None else f"{stage['max_abs']:.1e}"
    return shown if stage["reason"] is None else f"**no** {shown}".strip()


def _kernels(stage: Kept | None) -> str:
    if stage is None:
        return ""
    if stage["built"]:
        return str(stage["kernels"])
    return "**parsed only**" if stage["parsed"] else "**no**"


def _counts(rows: list[Kept]) -> str:
    """One sentence, with how many came how far."""

    def done(stage: str) -> int:
        return sum(row[stage] is not None and row[stage]["reason"] is None for row in rows)

    nvidia = sum(all(row[s] is not None and row[s]["reason"] is None for s in _STAGES if "nvidia" in s) for row in rows)
    return (
        f"Of {len(rows)} backbones {done('export')} are exported, {done('onnxruntime')} are right in ONNX Runtime, "
        f"{done('openvino')} in OpenVINO, and NVIDIA's builder takes {nvidia} in both flavours."
    )


def _failures(rows: list[Kept]) -> str:
    lines = [
        f"- `{row['name']}` {said}: {row[stage]['reason']}"
        for row in rows
        for stage, said in _STAGES.items()
        if row[stage] is not None and row[stage]["reason"] is not None
    ]
    return "What one of them cannot do:\n\n" + "\n".join(lines) if lines else "There is nothing that one cannot do."


def _origin(kept: Kept) -> str:
    commits = ", ".join(sorted({f"`{_short_hash(row['commit'])}`" for row in kept["rows"]}))
    names = ("torch", "timm", "onnxruntime", "openvino", "tensorrt-rtx")
    versions = ", ".join(f"{name} {kept['versions'][name]}" for name in names if name in kept["versions"])
    return f"Made by `{kept['command']}` on {kept['device']['cpu']} with {versions}, at commit {commits}."


def _short_hash(commit: str) -> str:
    return commit[:12] + ("+changes" if commit.endswith("+changes") else "")
