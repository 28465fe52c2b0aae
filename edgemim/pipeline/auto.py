"""`--precision auto`: search on this machine, measure what was found once more side by side, and choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgemim.artifact import Artifact
from edgemim.runtime.bundle import write_bundle
from edgemim.runtime.cache import default_cache, the_only_check
from edgemim.runtime.check import check_bundle
from edgemim.runtime.device import describe_device
from edgemim.runtime.latency.protocol import least_runs
from edgemim.runtime.outcome import refuse_if_nothing_ran
from edgemim.runtime.targets._base import Target

if TYPE_CHECKING:
    from edgemim.quantize.calibration import Calibration
    from edgemim.quantize.quantizers.ptq import PTQ

Row = Mapping[str, Any]
Say = Callable[[str], None]
Progress = Callable[[int, int], None]
Images = Callable[[], Iterable[tuple[bytes, int | None]]]

# Without labels nobody knows the top-1; outputs this close to fp32's seldom change an answer.
LEAST_COSINE = 0.99
LEAST_KNN_AGREEMENT = 0.95

# A search tries many candidates: each is timed briefly, those that are left once more and longer.
_SEARCH_SECONDS, _SEARCH_RUNS = 2.0, 40
_FINAL_SECONDS, _FINAL_RUNS = 5.0, 100


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What candidates are compared on; each call gives the encoded images anew, with labels or without.

    Attributes:
        evaluation: The images whose outputs count.
        gallery: Those among which their neighbours are looked for; None: there are none.
        labelled: Whether the evaluation images have labels that the model's classes can be held against.
    """

    evaluation: Images
    gallery: Images | None
    labelled: bool


@dataclass(frozen=True, kw_only=True)
class Auto:
    """How to search.

    Attributes:
        minutes: The search begins no round that would end after so many.
        threads: Of one inference; 0: the physical cores that this process may use.
        allow_unmeasured: Gates that are kept where this machine cannot measure them.
    """

    minutes: float
    threads: int
    allow_unmeasured: tuple[str, ...] = ()

    @property
    def used_threads(self) -> int:
        """Threads of one inference."""
        return self.threads or describe_device().default_threads


def budget(gates: Mapping[str, float], evidence: Evidence, *, max_drop: float) -> dict[str, float]:
    """The limits that a candidate must keep: the user's gates, and closeness to fp32 where they do not speak of it."""
    close = {"top1.max_drop", "top1.min", "agreement.min", "cosine.min", "embedding_cosine.min", "knn_agreement.min"}
    if close & set(gates):
        return dict(gates)
    if evidence.labelled:
        return {**gates, "top1.max_drop": max_drop}
    neighbours = {} if evidence.gallery is None else {"knn_agreement.min": LEAST_KNN_AGREEMENT}
    return {**gates, "cosine.min": LEAST_COSINE, **neighbours}


def search_flavours(
    onnx: Artifact,
    batches: Calibration,
    quantizer: PTQ,
    evidence: Evidence,
    folder: Path,
    *,
    target: Target,
    limits: Mapping[str, float],
    auto: Auto,
    say: Say,
    progress: Progress | None,
) -> tuple[Artifact, dict[str, Any]]:
    """Find the flavours that are worth shipping.

    Args:
        onnx: The float flavours.
        quantizer: Whose placements are searched.
        evidence: What candidates are compared on.
        folder: For rounds that are done; a search in the same folder goes on.
        limits: The budget.

    Returns:
        An artifact with the flavours, and what the manifest says of the search.
    """
    from edgemim.quantize.search.rounds import Bench
    from edgemim.quantize.search.search import search

    bench = Bench(
        target=target,
        gates=limits,
        evaluation=evidence.evaluation,
        gallery=evidence.gallery,
        folder=folder,
        threads=auto.used_threads,
        seconds=_SEARCH_SECONDS,
        runs=_SEARCH_RUNS,
        allow_unmeasured=auto.allow_unmeasured,
        alone=partial(the_only_check, default_cache()),
    )
    found = search(
        onnx,
        folder / "found",
        batches,
        quantizer,
        bench,
        minutes=auto.minutes,
        say=say,
        progress=progress,
        overwrite=True,
    )
    front = [f"{row['name']} on {row['backend']}" for row in found.front]
    return found.artifact, {"tried": found.tried, "front": front, "notes": list(found.notes), "minutes": auto.minutes}


def choose_on_this_machine(
    onnx: Artifact,
    evidence: Evidence,
    folder: Path,
    *,
    target: Target,
    limits: Mapping[str, float],
    auto: Auto,
    progress: Progress | None,
) -> dict[str, Any]:
    """Measure every candidate that would ship, all in turn, and say which one wins and why.

    Returns:
        `chosen` (None if no candidate keeps the budget), `candidates`, `verdict`, `budget` and the machine.
    """
    bundle = folder / "final"
    write_bundle(
        onnx,
        bundle,
        target=target,
        gates=limits,
        allow_unmeasured=auto.allow_unmeasured,
        evaluation=evidence.evaluation(),
        gallery=None if evidence.gallery is None else evidence.gallery(),
        overwrite=True,
    )
    with the_only_check(default_cache()):
        report = check_bundle(
            bundle,
            folder / "final-report",
            threads=auto.used_threads,
            seconds=_FINAL_SECONDS,
            runs=max(_FINAL_RUNS, least_runs(limits)),
            probe="peak_mb" in limits,
            cache=folder / "engines",
            overwrite=True,
            progress=progress,
        )
    refuse_if_nothing_ran(report)
    rows = [row for row in report["candidates"] if not row["reference_only"]]
    passing = [row for row in rows if (row["name"], row["backend"]) == (report["chosen"], report["chosen_backend"])]
    verdict = report["verdict"] if passing else f"{report['verdict']}; {nearest(rows)}"
    return {
        "chosen": _chosen(passing[0]) if passing else None,
        "candidates": [_candidate(row) for row in rows],
        "verdict": verdict,
        "budget": dict(limits),
        "caveats": report["caveats"],
        "device": report["device"],
    }


def nearest(rows: Sequence[Row]) -> str:
    """The candidate that misses its gates by least, as a clause."""
    missed = {
        f"{row['name']} on {row['backend']}": max(_miss(gate) for gate in row["gates"] if not gate["passed"])
        for row in rows
        if row["latency"] is not None and row["gates"]
    }
    if not missed:
        return "no candidate could be measured"
    name = min(missed, key=lambda key: missed[key])
    return f"the nearest is {name}"


def _miss(gate: Mapping[str, Any]) -> float:
    """How far a gate was missed, as a share of its limit; infinite where it could not be measured."""
    if gate["value"] is None:
        return float("inf")
    return abs(float(gate["value"]) - float(gate["limit"])) / max(abs(float(gate["limit"])), 1e-9)


def _chosen(row: Row) -> dict[str, Any]:
    """What somebody needs who wants to run it without edgemim."""
    return {key: row[key] for key in ("name", "precision", "file", "backend", "options")}


def _candidate(row: Row) -> dict[str, Any]:
    accuracy = row["accuracy"] or {}
    right = {"accuracy": accuracy["top1"]} if accuracy.get("top1") is not None else {"cosine": accuracy.get("cosine")}
    return {
        "name": row["name"],
        "precision": row["precision"],
        "backend": row["backend"],
        "p50_ms": None if row["latency"] is None else row["latency"]["p50_ms"],
        **right,
        "agreement": accuracy.get("agreement"),
        "knn_agreement": accuracy.get("knn_agreement"),
        "within_budget": bool(row["passed"]),
        "disqualified": row["disqualified"],
    }
