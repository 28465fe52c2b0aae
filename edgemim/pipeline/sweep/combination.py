"""One combination of a sweep: weights, a bundle, a check of it, and the entries that come of that.

Each step leaves what it made under its final name, so that a call after a kill goes on behind the last one that is
whole. A model that cannot be exported or run becomes an entry with its error.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgemim.artifact import Artifact, load_artifact, write_text, writing
from edgemim.errors import ArtifactError, EdgemimError, MissingDependencyError, OutputError
from edgemim.pipeline.make_bundle import BundleSettings, make_bundle
from edgemim.pipeline.sweep.combinations import RANDOM, Combination
from edgemim.pipeline.sweep.entries import Entry, Result, failed, measured
from edgemim.pipeline.sweep.measure import Machine
from edgemim.pipeline.sweep.settings import SweepSettings
from edgemim.pipeline.sweep.weights import weights_of
from edgemim.runtime.device import Device
from edgemim.runtime.report.read import read_report

Say = Callable[[str], None]

BUNDLE, REPORT = "bundle", "report"
# For random weights, on whose ranges nothing depends but that there are some.
_NOISE = "random:16"
_WEIGHTS, _TROUBLE, _NO_INT8 = "weights", "error.txt", "no-int8.txt"
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
        Its entries, what its report warns of, and the seconds that this call took.

    Raises:
        OutputError: The disk refused.
        MissingDependencyError: A package is not installed.
    """
    started = clock()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    entries: list[Entry]
    caveats: list[str] = []
    try:
        entries, caveats = _entries(combination, settings, folder, machine, say)
    except _FATAL:
        raise
    except EdgemimError as error:
        entries = [failed(combination, str(error))]
    except Exception as error:  # noqa: BLE001  (whatever a library says of one model, the others go on)
        write_text(folder / _TROUBLE, traceback.format_exc())
        entries = [failed(combination, f"{type(error).__name__}: {_first_line(error)}; see {folder.name}/{_TROUBLE}")]
    shutil.rmtree(folder / _WEIGHTS, ignore_errors=True)
    return Result(entries=entries, caveats=caveats, seconds=clock() - started)


def _entries(
    combination: Combination, settings: SweepSettings, folder: Path, machine: Machine, say: Say
) -> tuple[list[Entry], list[str]]:
    bundle, entries = _bundle(combination, settings, folder, say)
    names, missing = _wanted(bundle, settings, machine.device)
    entries += [failed(combination, reason, candidate=name) for name, reason in missing.items()]
    if names == []:
        return entries, []
    report = _kept_report(folder / REPORT)
    if report is None:
        report = machine.measure(bundle.path, folder / REPORT, settings.check(names))
    calibration = _calibration(combination, settings)[0]
    place = f"{folder.parent.name}/{folder.name}/{REPORT}"
    rows = measured(combination, report, folder=place, calibration=calibration)
    return [*rows, *entries], list(report["caveats"])


def _bundle(combination: Combination, settings: SweepSettings, folder: Path, say: Say) -> tuple[Artifact, list[Entry]]:
    """The bundle, and an entry for INT8 where that failed and the float candidates were packed without it."""
    path, trouble = folder / BUNDLE, folder / _NO_INT8
    if not _is_whole(path):
        weights = weights_of(combination, folder / _WEIGHTS)
        trouble.unlink(missing_ok=True)
        try:
            _export(weights, combination, settings, path, "int8" if settings.wants_int8 else "fp32", say)
        except _FATAL:
            raise
        except EdgemimError as error:
            if not (settings.wants_int8 and settings.wants_float):
                raise
            write_text(trouble, str(error))
            _export(weights, combination, settings, path, "fp32", say)
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


def _export(
    weights: Path, combination: Combination, settings: SweepSettings, out: Path, precision: str, say: Say
) -> None:
    calibration, count = _calibration(combination, settings)
    no_images = combination.source == RANDOM or settings.is_noise
    values = BundleSettings(
        target=settings.target,
        precision="fp32" if precision == "fp32" else "int8",
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


def _wanted(bundle: Artifact, settings: SweepSettings, device: Device) -> tuple[list[str] | None, dict[str, str]]:
    """The candidates that are asked for, None for all, and by name those that there are not and why."""
    if not settings.precisions:
        return None, {}
    candidates = bundle.content["candidates"]
    asked = set(settings.precisions)
    meant = [c for c in candidates if c["name"] in asked or c["precision"] in asked]
    names = [c["name"] for c in meant if not c.get("needs") or device.lacks(c["needs"]) is None]
    there = {c["name"] for c in candidates} | {c["precision"] for c in candidates}
    known = ", ".join(c["name"] for c in candidates)
    return names, {p: f"this model has no {p}; it has {known}" for p in settings.precisions if p not in there}


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
