"""Reports of older schemas, brought up to this one.

Schema 1 had no kind, no environment, no memory and no flips. Schema 2 measured an unclear comparison no longer, and a
sweep did not say what compares with what. What a report did not say is None or an empty list, never a default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# What schema 2 added, by the entry that it was added to.
_BUNDLE = ("classes", "input", "encoding", "batch", "evaluation")
_PROTOCOL = ("mode",)
_PREPARATION = ("p50_ms", "n")
_ROW = ("cold_start", "memory")
_LATENCY = ("p90_estimate_ms", "warmup_s", "settled", "with_preprocessing")
_ACCURACY = (
    "top5",
    "top5_drop",
    "flips",
    "mcnemar_p",
    "top1_drop_low",
    "top1_drop_high",
    "resolution",
    "enough",
    "cosine_worst_1pct",
    "cka",
    "per_class",
)
_GATE = ("missed_by", "allowed")

# What schema 3 added.
_COMPARE_PROTOCOL_3 = ("extensions", "extended")


def upgraded(report: Mapping[str, Any], provenance: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A report of any older schema with the keys of this one; its `schema_version` is left to the caller.

    Args:
        provenance: Of the report's artifact.
    """
    version, found = report["schema_version"], dict(report)
    if version < 2:
        found = from_schema_1(found, provenance)
    if version < 3:
        found = from_schema_2(found)
    return found


def from_schema_1(report: Mapping[str, Any], provenance: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A report of schema 1 with the keys of schema 2; its `schema_version` is left to the caller.

    Args:
        provenance: Of the report's artifact; its last record says when, and by which edgemim, it was written.
    """
    last = provenance[-1] if provenance else {}
    written = {"created": last.get("time"), "edgemim": last.get("edgemim")}
    if "devices" in report:
        return {"kind": "boards", **written, **report}
    protocol = {**_missing(_PROTOCOL), **report["protocol"]}
    bundle = {**_missing(_BUNDLE), **report["bundle"], "batch": protocol.get("batch")}
    gates = {name: {**gate, "allowed_unmeasured": False} for name, gate in report["gates"].items()}
    return {
        "kind": "check",
        **written,
        **report,
        "bundle": bundle,
        "environment": None,
        "protocol": protocol,
        "preprocessing": {**report["preprocessing"], **_missing(_PREPARATION)},
        "gates": gates,
        "candidates": [_row(row) for row in report["candidates"]],
        "flips": [],
        "class_names": None,
        "bundles": None,
    }


def from_schema_2(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report of schema 2 with the keys of schema 3."""
    found = dict(report)
    if found.get("kind") in ("check", "bench"):
        found["candidates"] = [_row_3(row) for row in found["candidates"]]
    if found.get("kind") == "compare":
        found["entries"] = [{"session": {}, **entry} for entry in found["entries"]]
        found["protocol"] = {**_missing(_COMPARE_PROTOCOL_3), **found["protocol"]}
    if found.get("environment") is not None:
        found["environment"] = {"others_bursts": None, **found["environment"]}
    if found.get("kind") == "sweep":
        found["entries"] = [{"group": None, "marks": [], **entry} for entry in found["entries"]]
    return found


def _row_3(row: Mapping[str, Any]) -> dict[str, Any]:
    latency, found = row["latency"], dict(row)
    if latency is not None and latency["with_preprocessing"] is not None:
        found["latency"] = {**latency, "with_preprocessing": {"added_ms": None, **latency["with_preprocessing"]}}
    return found | {"gates": [{"may_be": None, **gate} for gate in row["gates"]]}


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    latency, accuracy = row["latency"], row["accuracy"]
    return {
        **row,
        **_missing(_ROW),
        "gates": [{**gate, **_missing(_GATE)} for gate in row["gates"]],
        "latency": None if latency is None else {**latency, **_missing(_LATENCY)},
        "accuracy": None if accuracy is None else {**accuracy, **_missing(_ACCURACY)},
    }


def _missing(names: Sequence[str]) -> dict[str, None]:
    return dict.fromkeys(names)
