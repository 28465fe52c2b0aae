"""A sweep from beginning to end: combinations one after another, then the finalists side by side, then the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemim.errors import ConfigError, DeviceError, EdgemimError
from edgemim.pipeline.host_check import require_builder
from edgemim.pipeline.sweep.budget import Experience, in_words
from edgemim.pipeline.sweep.combination import run_combination, seconds_of
from edgemim.pipeline.sweep.combinations import RANDOM, Combination, list_combinations
from edgemim.pipeline.sweep.entries import Entry, Result, failed, label, latency_of, p50
from edgemim.pipeline.sweep.folder import SweepFolder, check_same, identity, is_finished, refuse_early, sweep_folder
from edgemim.pipeline.sweep.front import finalists
from edgemim.pipeline.sweep.measure import Finalist, FinalMeasured, Machine, require_measurable, this_machine
from edgemim.pipeline.sweep.report import Outcome, make_report, write_sweep
from edgemim.pipeline.sweep.settings import SweepSettings, lacking
from edgemim.runtime.device import Device, describe_device
from edgemim.runtime.latency.summary import summarise
from edgemim.runtime.report.read import read_report
from edgemim.runtime.targets import TARGETS

Say = Callable[[str], None]
Progress = Callable[[int, int], None]
Clock = Callable[[], float]


def run_sweep(
    settings: SweepSettings,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    say: Say,
    progress: Progress | None = None,
    clock: Clock = time.monotonic,
    machine: Callable[[Path, Device], Machine] = this_machine,
) -> dict[str, Any]:
    """Sweep, or go on with a sweep.

    Args:
        settings: What to try.
        out: The sweep's folder, which becomes a report.
        resume: Go on with what an earlier call left in `out`; only `minutes` may differ.
        overwrite: Replace a folder that edgemim wrote.
        say: Called with a line for the user.
        progress: Called with (combinations done, combinations in all).
        clock: Monotonic seconds, for the time budget.
        machine: Where to measure, given a folder for compiled engines and this device.

    Returns:
        The report, as written to `report.json`.

    Raises:
        ConfigError: An unknown name, a target that cannot be measured here, a device that lacks all precisions.
        OutputError: `out` exists or cannot be written; another sweep is writing it.
        TrainingError: `resume` with other settings.
        DeviceError, EdgemimError: Nothing could be measured; the line says why of each model.
    """
    started = clock()
    device = describe_device()
    refuse_early(out, resume=resume, overwrite=overwrite)
    _refuse_elsewhere(settings, device, say)
    combinations = list_combinations(settings)
    if resume and is_finished(out):
        report = _finished(out, settings, combinations, device)
        if report is not None:
            return report
    with sweep_folder(out, identity(settings, combinations, device), resume=resume, overwrite=overwrite) as folder:
        sweep = _Sweep(settings, combinations, folder, machine(folder.engines, device), say, progress, clock, started)
        try:
            with sweep.machine.alone():
                return sweep.run()
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(
                f"stopped after {len(sweep.results)} of {len(combinations)} combinations; run the same command with "
                "--resume to go on"
            ) from error


def _refuse_elsewhere(settings: SweepSettings, device: Device, say: Say) -> None:
    """Stop before anything is built where nothing could be measured in the end."""
    target = TARGETS.get(settings.target)
    require_measurable(target, device)
    require_builder(target)
    reasons = lacking(settings, device)
    if reasons and set(reasons) == set(settings.precisions):
        raise ConfigError(f"none of the precisions can run here: {'; '.join(f'{k}: {v}' for k, v in reasons.items())}")
    for name, reason in reasons.items():
        say(f"{name} is left out: {reason}")


def _finished(
    out: Path, settings: SweepSettings, combinations: Sequence[Combination], device: Device
) -> dict[str, Any] | None:
    """The report of a sweep that had come to its end; None where combinations were left out that may be tried now."""
    check_same(out, identity(settings, combinations, device))
    report = read_report(out)
    return None if report["left_out"] else report


@dataclass
class _Sweep:
    settings: SweepSettings
    combinations: Sequence[Combination]
    folder: SweepFolder
    machine: Machine
    say: Say
    progress: Progress | None
    clock: Clock
    started: float

    def __post_init__(self) -> None:
        self.experience = Experience()
        self.results: dict[str, Result] = {}
        self.left_out: list[tuple[Combination, float | None]] = []
        self.threads = self.settings.threads or self.machine.device.default_threads

    def run(self) -> dict[str, Any]:
        """All of it; returns the report."""
        self._take_what_is_done()
        for combination in self.combinations:
            if combination.key not in self.results:
                self._try(combination)
        entries = self._entries()
        if all(p50(entry) is None for entry in entries):
            reasons = "; ".join(f"{entry['model']}: {entry['error']}" for entry in entries)
            # What came to a backend failed there; everything else failed before.
            kind = DeviceError if any(entry["backend"] for entry in entries) else EdgemimError
            raise kind(f"nothing could be measured: {reasons}")
        outcome = self._final(entries)
        report = make_report(self.settings, outcome, self.machine.device)
        write_sweep(self.folder.out, report, outcome, self.combinations)
        if not self.left_out:
            self.folder.tidy(self.combinations)
        return report

    def _take_what_is_done(self) -> None:
        for combination in self.combinations:
            result = self.folder.result(combination)
            if result is not None:
                self._note(combination, result)
        if self.results:
            self.say(f"{len(self.results)} of {len(self.combinations)} combinations were done before")

    def _note(self, combination: Combination, result: Result) -> None:
        self.results[combination.key] = result
        if any(entry["latency"] is not None for entry in result.entries):
            self.experience.add(combination.cost, result.seconds)
        if self.progress is not None:
            self.progress(len(self.results), len(self.combinations))

    def _try(self, combination: Combination) -> None:
        """Measure one, unless the minutes are too few."""
        estimate = self.experience.estimate(combination.cost)
        if not self._fits(estimate):
            self.left_out.append((combination, estimate))
            self.say(f"{combination.name} is left out: it would end after the {self.settings.minutes:g} minutes")
            return
        left = in_words(self.experience.left([c for c in self.combinations if c.key not in self.results]))
        number = f"[{len(self.results) + 1}/{len(self.combinations)}]"
        self.say(f"{number} {combination.name}{f'; {left}' if left else ''}")
        with self.folder.attempt(combination) as may:
            result = self._measure(combination) if may else self._killed(combination)
            self.folder.keep(combination, result)
        self._note(combination, result)
        self.say(f"{number} {combination.name}: {_short(result.entries)} ({result.seconds:.0f} s)")
        self._drop_bundles()

    def _measure(self, combination: Combination) -> Result:
        def say(line: str) -> None:
            # What calibration on noise has to remark about random weights is no news for anybody.
            if combination.source != RANDOM:
                self.say(f"  {line}")

        folder = self.folder.of(combination)
        return run_combination(combination, self.settings, folder, machine=self.machine, say=say, clock=self.clock)

    def _killed(self, combination: Combination) -> Result:
        reason = (
            "the process was killed each time it was tried, perhaps since the memory is too small; "
            f"to try it once more, remove the folder work/{combination.key}"
        )
        seconds = seconds_of(self.folder.of(combination))
        return Result(entries=[failed(combination, reason)], caveats=[], seconds=seconds)

    def _fits(self, estimate: float | None) -> bool:
        """Whether a combination, and the final after it, would end within the minutes; the first always does.

        Where all failed so far, nobody knows: the next is begun while there are minutes left.
        """
        if self.settings.minutes is None or not self.results:
            return True
        passed = self.clock() - self.started
        if estimate is None:
            return passed <= self.settings.minutes * 60
        final = (len(finalists(self._entries(), self.settings.max_ms)) + 1) * self.settings.protocol.seconds
        return passed + estimate + final <= self.settings.minutes * 60

    def _entries(self) -> list[Entry]:
        """Of all combinations that are done, in their order."""
        done = [self.results[c.key] for c in self.combinations if c.key in self.results]
        return [dict(entry) for result in done for entry in result.entries]

    def _drop_bundles(self) -> None:
        """Those without a finalist; what is none now will never be one, since the front only moves on."""
        entries = self._entries()
        chosen = {(entries[i]["model"], tuple(entries[i]["input"])) for i in finalists(entries, self.settings.max_ms)}
        done = [c for c in self.combinations if c.key in self.results]
        self.folder.drop_bundles([c for c in done if (c.model, c.size) not in chosen])

    def _final(self, entries: list[Entry]) -> Outcome:
        """Measure the finalists once more, in turns, where there are at least two."""
        chosen = finalists(entries, self.settings.max_ms)
        measured, samples = FinalMeasured(samples={}), {}
        if len(chosen) > 1:
            self.say(f"measuring {len(chosen)} finalists once more, side by side")
            named = {index: self._finalist(index, entries[index]) for index in chosen}
            measured = self._side_by_side(list(named.values()))
            samples = {i: measured.samples[one.label] for i, one in named.items() if one.label in measured.samples}
            for index, own in samples.items():
                entries[index]["side_by_side"] = latency_of(summarise(own).to_dict())
        return Outcome(
            entries=entries,
            samples=samples,
            measured=measured,
            left_out=self.left_out,
            caveats={c.name: self.results[c.key].caveats for c in self.combinations if c.key in self.results},
            threads=self.threads,
        )

    def _side_by_side(self, chosen: Sequence[Finalist]) -> FinalMeasured:
        """The finalists in turns; without samples where the device fails, since each has its own numbers already."""
        try:
            return self.machine.final(chosen, self.settings.protocol, self.threads)
        except DeviceError as error:
            self.say(f"there is no final: {error}")
            return FinalMeasured(samples={}, trouble=" ".join(str(error).split()))

    def _finalist(self, index: int, entry: Entry) -> Finalist:
        own = (entry["model"], tuple(entry["input"]))
        (combination,) = (c for c in self.combinations if (c.model, c.size) == own)
        return Finalist(
            label=f"{index} {label(entry)}",
            bundle=self.folder.bundle(combination),
            candidate=entry["candidate"],
            backend=entry["backend"],
        )


def _short(entries: Sequence[Entry]) -> str:
    """`int8-linear on openvino 3.1 ms, 4 slower ones`, and what failed."""
    timed = sorted((e for e in entries if p50(e) is not None), key=lambda e: p50(e) or 0.0)
    told = [f"{e['candidate']} on {e['backend']} {p50(e):.3g} ms" for e in timed[:1]]
    told += [f"{len(timed) - 1} slower"] if len(timed) > 1 else []
    return ", ".join(
        [*told, *(f"{e['candidate'] or e['precision'] or 'failed'}: {e['error']}" for e in entries if e["error"])]
    )
