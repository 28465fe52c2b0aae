"""Measure bundles on this device: right first, then fast, all their candidates in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from edgemim.errors import DeviceError
from edgemim.runtime.accuracy.flips import answer_arrays
from edgemim.runtime.cache import the_only_check
from edgemim.runtime.environment.summary import Environment
from edgemim.runtime.environment.watch import EnvironmentWatch
from edgemim.runtime.latency.protocol import LatencyProtocol
from edgemim.runtime.latency.summary import Samples
from edgemim.runtime.power.meter import PowerMeter
from edgemim.runtime.probe.measure import probe
from edgemim.runtime.probe.room import refuse_if_too_large
from edgemim.runtime.subject import Subject
from edgemim.runtime.timing import time_together
from edgemim.runtime.trial import evaluate, find_reference, start

Progress = Callable[[int, int], None]
Arrays = dict[str, npt.NDArray[Any]]

_TIMED = "{} per run, from inputs in host memory to outputs in host memory; preprocessing is not included"
_PERCENTILES = "nearest rank; a percentile that too few runs back is null"


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Under what the subjects were measured.

    Attributes:
        arrays: Every sample, for `samples.npz`.
    """

    environment: Environment
    arrays: Arrays


def measure(
    subjects: Sequence[Subject],
    protocol: LatencyProtocol,
    cache: Path,
    threads: int,
    progress: Progress | None,
    *,
    rebuild: bool,
    probes: bool,
) -> Conditions:
    """Fill the trials of the subjects; all sessions are closed afterwards.

    Args:
        progress: Called with (steps done, steps in all).
        probes: Whether each pair is also started in a process of its own, for its memory.

    Raises:
        ConfigError: Another check is running here.
        DeviceError: A candidate that could be run fails while it is timed; or the candidates, each of which ran in a
            process of its own, do not fit into this one together.
    """
    trials = [trial for subject in subjects for trial in subject.trials]
    total = (1 + probes) * len(trials) + sum(subject.images for subject in subjects) + len(trials) * protocol.rounds
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    with the_only_check(cache):
        if rebuild:
            for backend in {trial.pair.backend.name: trial.pair.backend for trial in trials}.values():
                backend.forget(cache)
        try:
            if probes:
                _probe_all(subjects, cache, threads, tick, rebuild=rebuild)
            for subject in subjects:
                _make_ready(subject, cache, threads, tick, rebuild=rebuild)
            meter = PowerMeter()
            with EnvironmentWatch() as watch:
                groups = [(subject.bundle, subject.trials) for subject in subjects]
                found = time_together(groups, protocol, meter, watch, tick)
            for subject, preparing in zip(subjects, found, strict=True):
                subject.preparing = preparing
        finally:
            for trial in trials:
                trial.close()
    if progress is not None:
        progress(total, total)
    return Conditions(environment=watch.summary(), arrays=_arrays(subjects, watch, meter))


def protocol_facts(subjects: Sequence[Subject], protocol: LatencyProtocol, threads: int) -> dict[str, Any]:
    """The protocol, for the report."""
    batches = {subject.bundle.batch for subject in subjects}
    batch = batches.pop() if len(batches) == 1 else None
    return asdict(protocol) | {
        "batch": batch,
        "threads": threads,
        "timed": _TIMED.format({None: "each bundle's own batch", 1: "one image"}.get(batch, f"{batch} images")),
        "percentiles": _PERCENTILES,
    }


def _probe_all(
    subjects: Sequence[Subject], cache: Path, threads: int, tick: Callable[[], None], *, rebuild: bool
) -> None:
    """Every trial started in a process of its own, the reference too, before any session is open here.

    Raises:
        DeviceError: All that ran there would not fit here together.
    """
    for subject in subjects:
        for trial in subject.trials:
            try:
                trial.probe = probe(subject.bundle, trial.pair, cache, threads, rebuild=rebuild)
            except DeviceError as error:
                trial.fail(error)
            tick()
    probes = [trial.probe for subject in subjects for trial in subject.trials if trial.probe is not None]
    refuse_if_too_large([one.footprint for one in probes if one.footprint is not None])


def _make_ready(subject: Subject, cache: Path, threads: int, tick: Callable[[], None], *, rebuild: bool) -> None:
    """Every trial compiled, loaded and found right, or dropped; and how right they are."""
    for trial in subject.trials:
        if trial.disqualified is None:
            # What the probe compiled is not compiled once more.
            built = trial.probe is not None and trial.probe.cold_start.compile_s is not None
            start(trial, subject.bundle, cache, threads, rebuild=rebuild and not built)
        tick()
    subject.reference = (
        evaluate(subject.trials, subject.bundle, tick) if subject.images else find_reference(subject.trials)
    )
    for trial in subject.trials:
        if trial.disqualified is not None or not trial.pair.timed:
            trial.close()


def _arrays(subjects: Sequence[Subject], watch: EnvironmentWatch, meter: PowerMeter) -> Arrays:
    """Arrays for `samples.npz`; moments count from the first timed run."""
    trials = [trial for subject in subjects for trial in subject.trials]
    starts = [t.samples.start_ns for t in trials if t.samples is not None and t.samples.start_ns is not None]
    origin = min((int(moments[0]) for moments in starts), default=None)
    arrays: Arrays = {} if origin is None else {**watch.arrays(origin), **meter.arrays(origin)}
    for subject in subjects:
        arrays |= {**answer_arrays(subject.bundle, subject.trials)}
        if subject.preparing is not None:
            arrays[f"{subject.prefix}preparation.ns"] = subject.preparing.nanoseconds
        for trial in subject.trials:
            if trial.samples is not None and origin is not None:
                arrays |= _samples(trial.key, trial.samples, origin)
            if trial.prepared is not None and origin is not None:
                arrays |= _samples(f"{trial.key}.with_preprocessing", trial.prepared, origin)
    return arrays


def _samples(key: str, samples: Samples, origin: int) -> Arrays:
    arrays: Arrays = {f"{key}.ns": samples.nanoseconds, f"{key}.round": samples.rounds}
    if samples.start_ns is not None:
        arrays[f"{key}.start_ns"] = samples.start_ns - origin
    if samples.device_ms is not None:
        arrays[f"{key}.device_ms"] = samples.device_ms
    return arrays
