"""One round of the search: candidates measured side by side on this machine, kept so that a later call need not."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemim.artifact import Artifact, write_text
from edgemim.runtime.bundle import load_bundle, write_bundle
from edgemim.runtime.check import check_bundle
from edgemim.runtime.device import cpu_identity
from edgemim.runtime.latency.protocol import least_runs
from edgemim.runtime.outcome import refuse_if_nothing_ran
from edgemim.runtime.targets._base import Target

Images = Callable[[], Iterable[tuple[bytes, int | None]]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """How and where candidates are measured.

    Attributes:
        target: What the candidates are for.
        gates: The budget, as limits of `check`.
        allow_unmeasured: Those that are kept where this machine cannot measure them.
        evaluation, gallery: Called once a round; encoded images with labels or without. `gallery` may be None.
        folder: For scratch bundles, engines and finished rounds.
        threads: Of one inference.
        seconds, runs: Least time and least number of timed runs of each candidate; a gate may need more runs.
        alone: Entered while measuring, to keep out of the way of other checks.
    """

    target: Target
    gates: Mapping[str, float]
    evaluation: Images
    gallery: Images | None
    folder: Path
    threads: int
    seconds: float
    runs: int
    allow_unmeasured: tuple[str, ...] = ()
    alone: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True, kw_only=True)
class Round:
    """A report of `check`, how long it took, and whether an earlier call made it."""

    report: Mapping[str, Any]
    seconds: float
    kept: bool

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """One per candidate and backend, without those that only served as a reference."""
        return [row for row in self.report["candidates"] if not row["reference_only"]]


def measure_round(bench: Bench, onnx: Artifact, progress: Progress | None) -> Round:
    """Measure every candidate of an `onnx` artifact that the target can run.

    Args:
        progress: Called with (steps done, steps in all).

    Raises:
        DeviceError: No candidate runs right.
    """
    # Written anew in a later call too, which may have other images or another budget.
    bundle = bench.folder / f"bundle-{onnx.fingerprint[:16]}"
    write_bundle(
        onnx,
        bundle,
        target=bench.target,
        gates=bench.gates,
        allow_unmeasured=bench.allow_unmeasured,
        evaluation=bench.evaluation(),
        gallery=None if bench.gallery is None else bench.gallery(),
        overwrite=True,
    )
    key = _key(bench, bundle)
    kept = bench.folder / f"round-{key}.json"
    if kept.is_file():
        content = json.loads(kept.read_text("utf-8"))
        return Round(report=content["report"], seconds=content["seconds"], kept=True)
    started = time.monotonic()
    with bench.alone():
        report = check_bundle(
            bundle,
            bench.folder / f"report-{key}",
            threads=bench.threads,
            seconds=bench.seconds,
            runs=max(bench.runs, least_runs(bench.gates)),
            probe="peak_mb" in bench.gates,
            cache=bench.folder / "engines",
            overwrite=True,
            progress=progress,
        )
    refuse_if_nothing_ran(report)
    seconds = time.monotonic() - started
    write_text(kept, json.dumps({"report": report, "seconds": seconds}) + "\n")
    return Round(report=report, seconds=seconds, kept=False)


def _key(bench: Bench, bundle: Path) -> str:
    """What the numbers of a round depend on, this machine included."""
    facts = {
        "bundle": load_bundle(bundle).artifact.content,
        "files": {name: record.sha256 for name, record in load_bundle(bundle).artifact.files.items()},
        "gates": dict(bench.gates),
        "allow_unmeasured": sorted(bench.allow_unmeasured),
        "threads": bench.threads,
        "seconds": bench.seconds,
        "runs": bench.runs,
        "device": cpu_identity(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
