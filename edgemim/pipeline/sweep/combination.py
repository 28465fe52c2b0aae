"""One combination of a sweep: weights, a bundle, a check of it, and the entries that come of that.

Each step leaves what it made under its final name, so that a call after a kill goes on behind the last one that is
whole. A model that cannot be exported or run becomes an entry with its error.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from edgemim.artifact import Artifact, load_artifact, write_text, writing
from edgemim.errors import ArtifactError, EdgemimError, MissingDependencyError, OutputError
from edgemim.pipeline.make_bundle import BundleSettings, make_bundle
from edgemim.pipeline.sweep.combinations import RANDOM, Combination
from edgemim.pipeline.sweep.entries import Entry, Result, failed, measured
from edgemim.pipeline.sweep.measure import Machine
from edgemim.pipeline.sweep.settings import SweepSettings
from edgemim.pipeline.sweep.weights import weights_of
from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.backends._base import Backend
from edgemim.runtime.candidates import Candidate, read_candidate
from edgemim.runtime.device import Device
from edgemim.runtime.report.read import read_report
from edgemim.runtime.targets import TARGETS
from edgemim.runtime.targets._base import Target

Say = Callable[[str], None]

BUNDLE, REPORT = "bundle", "report"
# For random weights, on whose ranges nothing depends but that there are some.
_NOISE = "random:16"
_WEIGHTS, _TROUBLE, _NO_INT8, _SECONDS = "weights", "error.txt", "no-int8.txt", "seconds"
# These end a sweep: they are about the machine, not about one model.
_FATAL = (OutputError, MissingDependencyError, OSError)


def run_combination(
    combination: Combination,
    settings: SweepSettings,
    folder: Path,
    *,
    machine: Machine,
    say: Say,
    clock: Callable[[], float],
) -> Result:
    """Export and measure one combination, or go on where an earlier call was stopped.

    Args:
        folder: Of the combination; afterwards it holds the bundle and the report.
        machine: Where to measure.
        say: Called with a line for the user.
        clock: Monotonic seconds.

    Returns:
        Its entries, what its report warns of, and the seconds that this call and those before it took.

    Raises:
        OutputError: The disk refused.
        MissingDependencyError: A package is not installed.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    entries: list[Entry]
    caveats: list[str] = []
    with _timed(folder, clock) as keep_seconds:
        try:
            bundle, without = _bundle(combination, settings, folder, say)
            keep_seconds()
            entries, caveats = _measured(combination, settings, folder, machine, bundle)
            entries += without
        except _FATAL:
            raise
        except EdgemimError as error:
            entries = [failed(combination, str(error))]
        except Exception as error:  # noqa: BLE001  (whatever a library says of one model, the others go on)
            write_text(folder / _TROUBLE, traceback.format_exc())
            reason = f"{type(error).__name__}: {_first_line(error)}; see {folder.name}/{_TROUBLE}"
            entries = [failed(combination, reason)]
        shutil.rmtree(folder / _WEIGHTS, ignore_errors=True)
    return Result(entries=entries, caveats=caveats, seconds=seconds_of(folder))


def seconds_of(folder: Path) -> float:
    """Seconds that the calls for a combination have taken so far; of one that was killed, those of whole steps."""
    file = folder / _SECONDS
    return float(file.read_text("utf-8")) if file.is_file() else 0.0


@contextmanager
def _timed(folder: Path, clock: Callable[[], float]) -> Iterator[Callable[[], None]]:
    """Add the seconds of the block to the combination's, however it ends; what is yielded keeps those until then."""
    before, started = seconds_of(folder), clock()

    def keep() -> None:
        write_text(folder / _SECONDS, repr(before + clock() - started))

    try:
        yield keep
    finally:
        keep()


def _measured(
    combination: Combination, settings: SweepSettings, folder: Path, machine: Machine, bundle: Artifact
) -> tuple[list[Entry], list[str]]:
    """What measuring the bundle gives, and what there is to remark."""
    names, missing, remarks = _wanted(bundle, settings, machine.device)
    entries = [failed(combination, reason, candidate=name) for name, reason in missing.items()]
    if names == []:
        return entries, remarks
    report = _kept_report(folder / REPORT)
    if report is None:
        report = machine.measure(bundle.path, folder / REPORT, settings.check(names))
    calibration = _calibration(combination, settings)[0]
    place = f"{folder.parent.name}/{folder.name}/{REPORT}"
    rows = measured(combination, report, folder=place, calibration=calibration)
    return [*rows, *entries], [*report["caveats"], *remarks]


def _bundle(combination: Combination, settings: SweepSettings, folder: Path, say: Say) -> tuple[Artifact, list[Entry]]:
    """The bundle, and an entry for INT8 where that failed and the float candidates were packed without it."""
    path, trouble = folder / BUNDLE, folder / _NO_INT8
    if not _is_whole(path):
        weights = weights_of(combination, folder / _WEIGHTS)
        trouble.unlink(missing_ok=True)
        try:
            _export(weights, combination, settings, path, "int8" if settings.wants_int8 else _float(settings), say)
        except _FATAL:
            raise
        except EdgemimError as error:
            if not (settings.wants_int8 and settings.wants_float):
                raise
            write_text(trouble, str(error))
            _export(weights, combination, settings, path, _float(settings), say)
    reasons = [trouble.read_text("utf-8")] if trouble.is_file() else []
    return load_artifact(path, "bundle"), [failed(combination, reason, precision="int8") for reason in reasons]


def _is_whole(bundle: Path) -> bool:
    """Whether an earlier call wrote this bundle; what is left of a damaged one is removed."""
    if not bundle.exists():
        return False
    try:
        load_artifact(bundle, "bundle")
    except ArtifactError:
        shutil.rmtree(bundle)
        return False
    return True


def _float(settings: SweepSettings) -> Literal["fp32", "float"]:
    """What to export without INT8: fp32 alone where no other float candidate is asked for."""
    asked = {name for name in settings.precisions if not name.startswith("int8")}
    return "fp32" if asked == {"fp32"} else "float"


def _export(
    weights: Path,
    combination: Combination,
    settings: SweepSettings,
    out: Path,
    precision: Literal["fp32", "float", "int8"],
    say: Say,
) -> None:
    calibration, count = _calibration(combination, settings)
    no_images = combination.source == RANDOM or settings.is_noise
    values = BundleSettings(
        target=settings.target,
        precision=precision,
        calibration=calibration,
        calibration_count=count,
        evaluation="none" if no_images else settings.data,
    )
    make_bundle(weights, out, values, say=say)


def _calibration(combination: Combination, settings: SweepSettings) -> tuple[str, int]:
    """What to calibrate on, and on how many images; empty: what the checkpoint was trained on."""
    if combination.source == RANDOM and not settings.data:
        return _NOISE, int(_NOISE.partition(":")[2])
    return settings.data, BundleSettings.calibration_count


def _wanted(
    bundle: Artifact, settings: SweepSettings, device: Device
) -> tuple[list[str] | None, dict[str, str], list[str]]:
    """What is asked for of a bundle.

    Returns:
        Its candidates, None for all; by precision or name those that there are not, with the reason; remarks on those
        that are left out beside others of their precision.
    """
    if not settings.precisions:
        return None, {}, []
    candidates = [read_candidate(bundle, values) for values in bundle.content["candidates"]]
    meant = {p: [c for c in candidates if p in (c.name, c.precision)] for p in settings.precisions}
    known = ", ".join(c.name for c in candidates)
    missing = {p: f"this model has no {p}; it has {known}" for p, found in meant.items() if not found}
    # What the device lacks was told before anything was exported.
    possible = {p: [c for c in found if not c.needs or device.lacks(c.needs) is None] for p, found in meant.items()}
    names = [c.name for c in candidates if any(c in found for found in possible.values())]
    refused = _refused([c for c in candidates if c.name in names], TARGETS.get(settings.target))
    for precision, found in possible.items():
        reasons = [f"{c.name} cannot run here: {refused[c.name]}" for c in found if c.name in refused]
        if reasons and len(reasons) == len(found):
            missing[precision] = "; ".join(reasons)
    beside = {c.name for p, found in possible.items() if p not in missing for c in found}
    remarks = [f"{name} was left out: {reason}" for name, reason in refused.items() if name in beside]
    return [name for name in names if name not in refused], missing, remarks


def _refused(candidates: Sequence[Candidate], target: Target) -> dict[str, str]:
    """By name of a candidate that no backend of this machine can run, the reason."""
    backends: list[Backend] = [BACKENDS.get(name)() for name in target.backends]
    usable = [backend for backend in backends if backend.available() is None]
    found = {c.name: [b.cannot_run(c) for b in usable if c.backend in (None, b.name)] for c in candidates}
    return {name: "; ".join(filter(None, reasons)) for name, reasons in found.items() if reasons and all(reasons)}


def _kept_report(folder: Path) -> Mapping[str, Any] | None:
    """The report of a check that an earlier call came to the end of."""
    if not folder.exists():
        return None
    try:
        return read_report(folder)
    except ArtifactError:
        shutil.rmtree(folder)
        return None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else "no message"
