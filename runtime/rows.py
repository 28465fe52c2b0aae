"""One row of the report per trial: what was measured, and how it stands against the gates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from edgemim.runtime.accuracy.measure import Accuracy
from edgemim.runtime.gates import Estimate, GateResult, Measured, Missing, check_gates
from edgemim.runtime.latency.protocol import LEAST_RUNS
from edgemim.runtime.latency.summary import latency_ratio, summarise_briefly
from edgemim.runtime.trial import Trial

_SCORES = "the model has classes, its outputs are scores; cosine.min is the gate for those"
_EMBEDS = "the model has no classes; embedding_cosine.min is the gate for those"


def report_row(
    trial: Trial,
    trials: Sequence[Trial],
    limits: Mapping[str, float],
    allowed: Collection[str] = (),
    *,
    classifies: bool,
) -> dict[str, Any]:
    """Everything the report says about one trial, as plain values.

    Args:
        trial: The one to report; its latency decides whether its gates are looked at.
        trials: All of them, to find the fp32 that speed is stated against.
        limits: Gates by name.
        allowed: Those that are kept where they cannot be measured.
        classifies: Whether the model has classes.
    """
    candidate, engine = trial.pair.candidate, trial.engine
    results = check_gates(limits, _measured(trial, classifies), allowed) if trial.latency is not None else []
    return {
        "name": trial.name,
        "precision": candidate.precision,
        "backend": trial.pair.backend.name,
        "version": trial.pair.backend.version(),
        "options": {} if engine is None else dict(engine.options),
        "file": candidate.file,
        "size_bytes": candidate.size_bytes,
        "reference_only": not trial.pair.timed,
        "disqualified": trial.disqualified,
        "compile_s": None if engine is None else engine.compile_s,
        "compile_first_ms": None if engine is None else engine.compiled_first_ms,
        "compiled_before": _compiled_before(trial),
        "load_s": trial.load_s,
        "first_ms": trial.first_ms,
        "latency": _latency(trial),
        "cold_start": None if trial.probe is None else trial.probe.cold_start.to_dict(),
        "memory": None if trial.probe is None else trial.probe.memory.to_dict(),
        "power": None if trial.power is None else trial.power.to_dict(),
        "speed": _speed(trial, trials),
        "golden": None if trial.golden is None else trial.golden.to_dict(),
        "same_file": None if trial.same_file is None else trial.same_file.to_dict(),
        "session": dict(trial.facts),
        "accuracy": None if trial.accuracy is None else trial.accuracy.to_dict(),
        "gates": [_gate(result) for result in results],
        "passed": trial.latency is not None and all(result.passed for result in results),
    }


def _compiled_before(trial: Trial) -> bool | None:
    """Whether an earlier check compiled it; what the probe of this one compiled does not count as earlier."""
    if trial.engine is None:
        return None
    probed = None if trial.probe is None else trial.probe.cold_start.compiled_before
    return trial.engine.cached if probed is None else probed


def _latency(trial: Trial) -> dict[str, Any] | None:
    """The latency, and its median in each round, by which two rows can be compared round by round."""
    if trial.latency is None or trial.samples is None:
        return None
    rounds = (trial.samples.round_medians() / 1e6).tolist()
    return trial.latency.to_dict() | {"round_p50_ms": rounds, "with_preprocessing": _with_preprocessing(trial)}


def _with_preprocessing(trial: Trial) -> dict[str, Any] | None:
    """The series with preparation, and what that adds to the runs without in the same rounds."""
    if trial.prepared is None or trial.samples is None:
        return None
    added = trial.prepared.round_medians() - trial.samples.round_medians()
    return summarise_briefly(trial.prepared.nanoseconds).to_dict() | {"added_ms": float(np.median(added)) / 1e6}


def _gate(result: GateResult) -> dict[str, Any]:
    return result.to_dict() | {"sentence": result.sentence()}


def _measured(trial: Trial, classifies: bool) -> dict[str, Measured]:
    """Every gate's number for one trial, or why there is none."""
    latency, accuracy = trial.latency, trial.accuracy
    assert latency is not None

    def tail(value: float | None, p: int) -> float | Missing:
        return Missing(reason=f"{latency.n} runs, {LEAST_RUNS[p]} are needed") if value is None else value

    def judged(name: str) -> float | Missing:
        value = None if accuracy is None else getattr(accuracy, name)
        return Missing(reason=_reason(name, accuracy, classifies)) if value is None else float(value)

    return {
        "p50_ms": latency.p50_ms,
        "p90_ms": tail(latency.p90_ms, 90),
        "p90_estimate_ms": tail(latency.p90_estimate_ms, 90),
        "p99_ms": tail(latency.p99_ms, 99),
        "size_mb": trial.pair.candidate.size_bytes / 1e6,
        "peak_mb": _peak(trial),
        "energy_mj": _energy(trial),
        "top1.min": judged("top1"),
        "top1.max_drop": _drop(accuracy, judged("top1_drop")),
        "agreement.min": judged("agreement") if classifies else Missing(reason=_EMBEDS),
        "cosine.min": judged("cosine"),
        "embedding_cosine.min": Missing(reason=_SCORES) if classifies else judged("cosine"),
        "knn_agreement.min": judged("knn_agreement"),
    }


def _drop(accuracy: Accuracy | None, value: float | Missing) -> Measured:
    """The drop with what the images leave open; the reference's own, which is no estimate, as it is."""
    if accuracy is None or accuracy.top1_drop_high is None or isinstance(value, Missing):
        return value
    return Estimate(value=value, worst=accuracy.top1_drop_high)


def _peak(trial: Trial) -> float | Missing:
    memory = None if trial.probe is None else trial.probe.memory
    if memory is None:
        return Missing(reason="it was not started in a process of its own")
    return Missing(reason=memory.reason or "it is not known") if memory.peak_mb is None else memory.peak_mb


def _energy(trial: Trial) -> float | Missing:
    power = trial.power
    if power is None:
        return Missing(reason="power was not measured")
    return Missing(reason=power.reason or "it is not known") if power.energy_mj is None else power.energy_mj


def _reason(name: str, accuracy: Accuracy | None, classifies: bool) -> str:
    """Why one of the numbers of an accuracy is missing."""
    if accuracy is None:
        return "the bundle has no evaluation images"
    if name != "top1" and accuracy.cosine is None:
        return "no fp32 candidate could serve as the reference"
    if name == "knn_agreement":
        return "the bundle has no gallery"
    return "the evaluation images have no labels" if classifies else "the model has no classes"


def _speed(trial: Trial, trials: Sequence[Trial]) -> dict[str, Any] | None:
    """How many times as long a run takes as one of the fastest fp32 trial."""
    full = [t for t in trials if t.latency is not None and t.pair.candidate.precision == "fp32"]
    fastest = min(full, key=lambda t: t.latency.p50_ms if t.latency else 0.0, default=None)
    if trial.samples is None or fastest is None or fastest.samples is None:
        return None
    ratio = latency_ratio(trial.samples, fastest.samples)
    return {"versus": fastest.label, "ratio": ratio.ratio, "low": ratio.low, "high": ratio.high}
