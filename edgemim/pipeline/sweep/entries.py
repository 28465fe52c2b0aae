"""The rows of a sweep: one per candidate and backend that was measured, one per thing that failed.

An entry is a plain mapping, kept as JSON; what was not measured is None, with the reason beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgemim.pipeline.sweep.combinations import RANDOM, Combination

Entry = dict[str, Any]

# What of a latency the sweep's own report holds; the rest is in the combination's.
_LATENCY = ("n", "p50_ms", "p90_ms", "p99_ms", "mean_ms", "max_ms", "cv", "stable")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one combination came to: its entries, what its report warns of, and the seconds of all calls for it."""

    entries: list[Entry]
    caveats: list[str]
    seconds: float


def measured(
    combination: Combination, report: Mapping[str, Any], *, folder: str, calibration: str | None
) -> list[Entry]:
    """An entry for every row of a check's report that was to be timed.

    Args:
        folder: Of the report, relative to the sweep's.
        calibration: What the INT8 candidates were calibrated on.
    """
    bundle = report["bundle"]
    common = _common(combination) | {"parameters": bundle["parameters"], "report": folder}
    common |= {"evaluation": bundle.get("evaluation")}
    common |= {"marks": list((report.get("environment") or {}).get("marks") or [])}
    rows = [row for row in report["candidates"] if not row["reference_only"]]
    return [common | _facts(row, combination, calibration) for row in rows]


def failed(
    combination: Combination, reason: str, *, candidate: str | None = None, precision: str | None = None
) -> Entry:
    """The entry of a combination, or of one precision of it, that could not be measured.

    Args:
        reason: In one line.
        candidate, precision: What failed; None: all of the combination.
    """
    return _common(combination) | {
        "candidate": candidate,
        "precision": precision,
        "accuracy_reason": "it was not measured",
        "error": " ".join(reason.split()),
    }


def latency_of(samples: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the sweep's report keeps of a latency."""
    return None if samples is None else {key: samples[key] for key in _LATENCY}


def p50(entry: Mapping[str, Any]) -> float | None:
    """The median in milliseconds that counts: side by side with the other finalists where there is one."""
    latency = entry["side_by_side"] or entry["latency"]
    return None if latency is None else float(latency["p50_ms"])


def label(entry: Mapping[str, Any], among: Sequence[Mapping[str, Any]] = ()) -> str:
    """`vit_tiny_patch16_224 int8-linear on openvino`, and the size where the model is there in several.

    Args:
        among: All entries.
    """
    sizes = {tuple(other["input"]) for other in among if other["model"] == entry["model"]}
    height, width = entry["input"]
    size = f" at {height if height == width else f'{height}x{width}'}" if len(sizes) > 1 else ""
    return f"{entry['model']}{size} {entry['candidate']} on {entry['backend']}"


def _common(combination: Combination) -> Entry:
    return {
        "model": combination.model,
        "source": combination.source,
        "architecture": combination.architecture,
        "input": list(combination.size),
        "own_input": list(combination.own_size),
        "candidate": None,
        "precision": None,
        "backend": None,
        **dict.fromkeys(("version", "latency", "side_by_side", "size_bytes", "calibration")),
        **dict.fromkeys(("accuracy", "accuracy_reason", "evaluation")),
        "parameters": combination.parameters,
        "error": None,
        "report": None,
        "marks": [],
    }


def _facts(row: Mapping[str, Any], combination: Combination, calibration: str | None) -> Entry:
    accuracy = row["accuracy"]
    return {
        "candidate": row["name"],
        "precision": row["precision"],
        "backend": row["backend"],
        "version": row["version"],
        "latency": latency_of(row["latency"]),
        "size_bytes": row["size_bytes"],
        "accuracy": accuracy,
        "accuracy_reason": None if accuracy is not None else _no_accuracy(row, combination),
        "calibration": calibration if row["precision"] == "int8" else None,
        "error": row["disqualified"],
    }


def _no_accuracy(row: Mapping[str, Any], combination: Combination) -> str:
    if combination.source == RANDOM:
        return "random weights"
    if row["disqualified"] is not None:
        return "it was disqualified"
    return "there are no evaluation images"
