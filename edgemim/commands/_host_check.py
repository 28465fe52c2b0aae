"""What NVIDIA's builder made of each candidate on the exporting machine, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def host_check_lines(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """One line per row of a manifest's `host_check`, by its title."""
    return {_title(row): row["note"] if row["parsed"] is None else _seen(row) for row in rows}


def _title(row: Mapping[str, Any]) -> str:
    capability = row["compute_capability"]
    return f"host check {row['candidate']}" + ("" if capability is None else f" on {capability}")


def _seen(row: Mapping[str, Any]) -> str:
    if row["error"] is not None:
        return str(row["error"])
    instead = "" if row["stands_for"] is None else f", in place of {row['stands_for']}"
    whole = f"{row['fused_mha']} fused attentions ({row['int8_mha']} of them INT8)"
    # Bundles of earlier versions did not count convolutions.
    convolutions = f", {row['int8_convolutions']} INT8 convolutions" if row.get("int8_convolutions") else ""
    counts = f"{row['kernels']} kernels, {row['int8_gemms']} INT8 GEMMs{convolutions}, {whole}"
    return f"{counts}, {row['unfused_softmax']} unfused softmaxes; {row['builder']}{instead}"
