"""Compare candidates on this device: right first, then each in turns with the others, then whether they differ.

1. find the candidates, and refuse what cannot be compared
2. start each once in a process of its own, which a crash or the kernel may end; then here: compile, run the golden
   inputs, and refuse what computes something else
3. accuracy on the images that all bundles carry, if they do
4. latency in short turns; the ratio to the first one with its interval; the report is written
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim import __version__
from edgemim.artifact import refuse_existing
from edgemim.errors import DeviceError
from edgemim.runtime.bundle import Arrays, Bundle
from edgemim.runtime.cache import default_cache, the_only_check
from edgemim.runtime.caveats import caveats
from edgemim.runtime.compare.accuracy import paired_accuracy
from edgemim.runtime.compare.alike import refuse_unlike, same_images
from edgemim.runtime.compare.bootstrap import LEVEL, MARGIN, RESAMPLES, ratio_interval
from edgemim.runtime.compare.entries import Entry, find_entries
from edgemim.runtime.compare.interleave import Call, Recorded, Turns, interleave, turns_for
from edgemim.runtime.compare.words import verdict
from edgemim.runtime.device import Device, describe_device
from edgemim.runtime.environment.summary import Environment
from edgemim.runtime.environment.watch import EnvironmentWatch
from edgemim.runtime.latency.protocol import LatencyProtocol, protocol_for
from edgemim.runtime.latency.summary import summarise
from edgemim.runtime.plan import Plan
from edgemim.runtime.predict.choice import Choice
from edgemim.runtime.predict.engine import offer_engine
from edgemim.runtime.preparation import compare_preparation
from edgemim.runtime.probe.measure import probe
from edgemim.runtime.probe.result import Probe
from edgemim.runtime.probe.room import refuse_if_too_large
from edgemim.runtime.report.read import SCHEMA_VERSION
from edgemim.runtime.report.write import write_report
from edgemim.runtime.rotation import rotating_run
from edgemim.runtime.subject import Subject
from edgemim.runtime.temperatures import board_thermometer
from edgemim.runtime.trial import Trial, start

Progress = Callable[[int, int], None]

# Of the order of the turns.
_SEED = 0
# Steps of the progress that the timing counts as.
_STEPS = 1000
_TIMED = "one run of {}, from inputs in host memory to outputs in host memory; preprocessing is not included"
_ORDER = "one turn each per round, in an order drawn at random and mirrored in the next round; opened anew in turn"
_STATISTIC = "interquartile mean of the logs of the ratios of the rounds' medians; blocks of openings are resampled"


def compare(
    given: Sequence[Path | str | Choice],
    out: Path | str,
    *,
    mode: str = "quick",
    seconds: float | None = None,
    runs: int | None = None,
    threads: int | None = None,
    latency_only: bool = False,
    cache: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Say of every candidate after the first whether it is slower or faster than that, and write a report.

    Args:
        given: Two or more: `BUNDLE`, `BUNDLE:CANDIDATE`, `BUNDLE:CANDIDATE@BACKEND` or a report
            (`edgemim.runtime.compare.entries`); or candidates that were found already.
        out: Folder of the report: `report.json`, `report.md` and every sample in `samples.npz`.
        mode: `quick`, `standard` or `mlperf`.
        seconds, runs: In place of the mode's, of each candidate. The untimed runs that a turn begins with count as
            seconds, not as runs.
        threads: Of one inference. By default as in the checks that chose the candidates, if all agree; else the
            physical cores.
        latency_only: Leave accuracy out, and take bundles that carry different images.
        cache: Folder of compiled engines; by default the user's.
        progress: Called with (steps done, steps in all).

    Returns:
        The report, as written to `report.json`.

    Raises:
        ArtifactError: Neither a bundle nor a report, an altered one, or the bundle of a report is gone or altered.
        ConfigError: Fewer than two, an unknown name, a bundle that does not say which candidate is meant, inputs or
            images that differ, or another check that is running here.
        MissingDependencyError: A backend's package is not installed.
        OutputError: `out` exists, or cannot be written.
        DeviceError: A candidate cannot be run, was killed where it was tried, or computes something else than its
            bundle's model; or they do not fit into memory together.
    """
    out = Path(out)
    refuse_existing(out, overwrite=overwrite)
    protocol = protocol_for(mode, runs=runs, seconds=seconds)
    device, turns = describe_device(), turns_for(protocol)
    entries = find_entries(given, device, threads=threads)
    refuse_unlike(entries, latency_only=latency_only)
    used = threads or _agreed_threads(entries, device)
    work = _Work(entries, device, cache or default_cache(), used, images=not latency_only, progress=progress)
    with the_only_check(work.cache):
        work.start()
        environment, arrays = work.time(protocol, turns)
    pairs = [_pair(entry, entries[0], work.recorded) for entry in entries[1:]]
    report = {
        "schema_version": SCHEMA_VERSION,
        "kind": "compare",
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "edgemim": __version__,
        "verdict": verdict(pairs, protocol.mode),
        "passed": True,
        "caveats": work.caveats(environment),
        "device": device.to_dict(),
        "environment": environment.to_dict(),
        "protocol": _protocol(protocol, turns, work.openings, entries[0].bundle, used),
        "entries": [work.row(entry) for entry in entries],
        "pairs": pairs,
    }
    bundles = {entry.bundle.artifact.fingerprint: entry.bundle.artifact for entry in entries}
    write_report(out, report, list(bundles.values()), arrays, overwrite=overwrite)
    return report


class _Work:
    """What was found of the entries so far."""

    def __init__(
        self,
        entries: Sequence[Entry],
        device: Device,
        cache: Path,
        threads: int,
        *,
        images: bool,
        progress: Progress | None,
    ) -> None:
        self.entries, self.device, self.cache, self.threads = entries, device, cache, threads
        self.images = images and same_images(entries)
        self.wants_images = images
        self.trials = {entry.label: Trial(pair=entry.choice.pair) for entry in entries}
        self.preparations = {entry.label: compare_preparation(entry.bundle) for entry in entries}
        self.recorded: dict[str, Recorded] = {}
        self._progress, self._done = progress, 0
        evaluation = entries[0].bundle.evaluation if self.images else None
        self._total = 2 * len(entries) + (0 if evaluation is None else len(evaluation)) + _STEPS

    def start(self) -> None:
        """Try, compile, open and verify every entry, and measure the accuracies; all are closed afterwards."""
        self._probe()
        try:
            for entry in self.entries:
                self._start(entry)
                self._tick()
            if self.images:
                paired_accuracy(self.entries, self.trials, self._tick)
        finally:
            for trial in self.trials.values():
                trial.close()

    def time(self, protocol: LatencyProtocol, turns: Turns) -> tuple[Environment, Arrays]:
        """Fill `recorded` and the trials' latencies; the environment meanwhile, and the arrays of the report."""
        opened = {entry.label: partial(self._open, entry) for entry in self.entries}
        with EnvironmentWatch() as watch:
            began = time.perf_counter_ns()
            self.recorded = interleave(
                opened,
                turns,
                protocol,
                rng=np.random.default_rng(_SEED),
                decided=self._decided,
                thermometer=board_thermometer(),
                progress=self._tell_share,
            )
            watch.window(began, time.perf_counter_ns())
        for label, record in self.recorded.items():
            trial = self.trials[label]
            trial.samples = record.samples()
            trial.latency = summarise(trial.samples)
        if self._progress is not None:
            self._progress(self._total, self._total)
        origin = min(record.start_ns[0] for record in self.recorded.values())
        return watch.summary(), {**_arrays(self.recorded, origin), **watch.arrays(origin)}

    @property
    def openings(self) -> int:
        """How often everything was opened for the timing."""
        return max(record.openings[-1] for record in self.recorded.values()) + 1

    def row(self, entry: Entry) -> dict[str, Any]:
        """Everything that the report says about one entry."""
        trial, candidate = self.trials[entry.label], entry.choice.pair.candidate
        assert trial.engine is not None
        assert trial.latency is not None
        assert trial.samples is not None
        medians = (trial.samples.round_medians() / 1e6).tolist()
        return {
            "label": entry.label,
            "chosen_by": entry.choice.by,
            "bundle": _subject(entry, self.preparations[entry.label]).describe(),
            "candidate": candidate.name,
            "precision": candidate.precision,
            "backend": trial.pair.backend.name,
            "version": trial.pair.backend.version(),
            "options": dict(trial.engine.options),
            "session": dict(trial.facts),
            "size_bytes": candidate.size_bytes,
            "compile_s": trial.engine.compile_s,
            "compiled_before": trial.engine.cached,
            "load_s": trial.load_s,
            "first_ms": trial.first_ms,
            "golden": None if trial.golden is None else trial.golden.to_dict(),
            "latency": trial.latency.to_dict() | {"round_p50_ms": medians},
            "accuracy": None if trial.accuracy is None else trial.accuracy.to_dict(),
        }

    def caveats(self, environment: Environment) -> list[str]:
        """What a reader must know, each thing once."""
        found = []
        if self.wants_images and not self.images and any(e.bundle.evaluation is not None for e in self.entries):
            without = next(e for e in self.entries if e.bundle.evaluation is None)
            found.append(f"accuracy was not compared: the bundle of {without.label} carries no evaluation images")
        for entry in self.entries:
            if entry.choice.report is not None and entry.choice.threads != self.threads:
                told = f"{entry.label} was chosen by a check with {entry.choice.threads} threads"
                found.append(f"{told}, here it has {self.threads}")
            trial, plan = self.trials[entry.label], Plan(pairs=(entry.choice.pair,), skipped={})
            prepared = self.preparations[entry.label]
            found += caveats(entry.bundle, self.device, plan, [trial], trial, prepared, environment)
        return list(dict.fromkeys(found))

    def _probe(self) -> None:
        """Start every entry in a process of its own, the same one once, and see whether they fit in here together."""
        found: dict[tuple[str, str, str], Probe] = {}
        footprints = []
        for entry in self.entries:
            pair = entry.choice.pair
            if entry.choice.report is not None:
                offer_engine(entry.choice.report, pair.backend.name, self.cache)
            key = entry.bundle.artifact.fingerprint, pair.candidate.name, pair.backend.name
            try:
                found[key] = found.get(key) or probe(entry.bundle, pair, self.cache, self.threads)
            except DeviceError as error:
                raise DeviceError(f"{entry.label} cannot be compared: {error}") from error
            footprint = found[key].footprint
            footprints += [] if footprint is None else [replace(footprint, label=entry.label)]
            self._tick()
        refuse_if_too_large(footprints)

    def _start(self, entry: Entry) -> None:
        trial = self.trials[entry.label]
        start(trial, entry.bundle, self.cache, self.threads)
        if trial.disqualified is not None:
            raise DeviceError(f"{entry.label} cannot be compared: {trial.disqualified}")

    @contextmanager
    def _open(self, entry: Entry) -> Iterator[Call]:
        engine = self.trials[entry.label].engine
        assert engine is not None
        session = entry.choice.pair.backend.open(engine)
        try:
            yield rotating_run(session, entry.bundle)
        finally:
            session.close()

    def _decided(self, recorded: Mapping[str, Recorded]) -> bool:
        first, *others = self.entries
        return all(_pair(entry, first, recorded)["difference"] != "unclear" for entry in others)

    def _tick(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)

    def _tell_share(self, share: float) -> None:
        if self._progress is not None:
            self._progress(self._done + int(share * _STEPS), self._total)


def _agreed_threads(entries: Sequence[Entry], device: Device) -> int:
    """Threads of the checks that chose the entries, if all say the same."""
    told = {entry.choice.threads for entry in entries}
    return told.pop() if len(told) == 1 else device.default_threads


def _subject(entry: Entry, preparation: Mapping[str, Any]) -> Subject:
    plan = Plan(pairs=(entry.choice.pair,), skipped={})
    return Subject(name=None, bundle=entry.bundle, plan=plan, trials=[], preparation=preparation)


def _pair(entry: Entry, first: Entry, recorded: Mapping[str, Recorded]) -> dict[str, Any]:
    ours, theirs = recorded[entry.label], recorded[first.label]
    found = ratio_interval(ours.round_medians(), theirs.round_medians(), ours.opening_of_round())
    return {"a": entry.label, "b": first.label, **asdict(found), "difference": found.difference}


def _protocol(protocol: LatencyProtocol, turns: Turns, openings: int, bundle: Bundle, threads: int) -> dict[str, Any]:
    return {
        "mode": protocol.mode,
        **asdict(turns),
        "openings": openings,
        "extended": openings // turns.openings - 1,
        "rounds": openings,
        "warmup_runs": protocol.warmup_runs,
        "warmup_s": protocol.warmup_s,
        "warmup_most_s": protocol.warmup_most_s,
        "batch": bundle.batch,
        "threads": threads,
        "timed": _TIMED.format("one image" if bundle.batch == 1 else f"{bundle.batch} images"),
        "percentiles": "nearest rank; a percentile that too few runs back is null",
        "order": _ORDER,
        "statistic": _STATISTIC,
        "level": LEVEL,
        "margin": MARGIN,
        "resamples": RESAMPLES,
    }


def _arrays(recorded: Mapping[str, Recorded], origin: int) -> dict[str, npt.NDArray[Any]]:
    """Arrays for `samples.npz` by label: a round is an opening; moments count from the first timed run."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for label, record in recorded.items():
        samples = record.samples()
        arrays[f"{label}.ns"] = samples.nanoseconds
        arrays[f"{label}.start_ns"] = np.array(record.start_ns, dtype=np.int64) - origin
        arrays[f"{label}.round"] = samples.rounds
        arrays[f"{label}.turn"] = np.array(record.rounds, dtype=np.int32)
    return arrays
