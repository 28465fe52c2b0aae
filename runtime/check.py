"""Check a bundle on this device: right first, then fast, then the gates, then one sentence.

1. verify every hash of the bundle, prepare the golden images, plan candidates times backends
2. compile, run the golden inputs, and drop what computes something else
3. accuracy on the bundle's images, prepared on this device
4. latency of all that are left, in turns
5. gates; the fastest that passes is chosen; the report is written
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.artifact import refuse_existing
from edgemim.errors import ConfigError, DataError, DeviceError
from edgemim.preprocess import read_image
from edgemim.runtime.backends._base import Backend
from edgemim.runtime.bundle import Bundle, load_bundle
from edgemim.runtime.cache import default_cache, the_only_check
from edgemim.runtime.caveats import caveats
from edgemim.runtime.device import Device, describe_device
from edgemim.runtime.evaluation import Evaluation
from edgemim.runtime.gates import check_limits
from edgemim.runtime.latency.protocol import LEAST_RUNS, LatencyProtocol
from edgemim.runtime.plan import Plan, make_plan
from edgemim.runtime.power.meter import PowerMeter
from edgemim.runtime.report.read import SCHEMA_VERSION
from edgemim.runtime.report.write import write_report
from edgemim.runtime.rows import report_row
from edgemim.runtime.timing import time_together
from edgemim.runtime.trial import Trial, evaluate, find_reference, start, still_in
from edgemim.runtime.verdict import choose, verdict

Progress = Callable[[int, int], None]

_TIMED = "{} per run, from inputs in host memory to outputs in host memory; preprocessing is not included"
# In grey levels of 255: other builds of Pillow and of the JPEG library round differently by one or two; another
# decoder, filter or order of channels is off by tens.
_LARGEST_LEVELS = 4
# Of values around 1: far above another order of float32 rounding, far below one step of a pixel (0.017).
_PREPROCESSING_TOLERANCE = 1e-4
_PERCENTILES = "nearest rank; a percentile that too few runs back is null"


def check_bundle(
    bundle_path: Path | str,
    out: Path | str,
    *,
    gates: Mapping[str, float] | None = None,
    backends: Sequence[str | Backend] | None = None,
    candidates: Sequence[str] | None = None,
    threads: int | None = None,
    seconds: float = 5.0,
    runs: int = LEAST_RUNS[99],
    cache: Path | None = None,
    rebuild: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a bundle's candidates on this device and write a report.

    Args:
        out: Folder of the report: `report.json`, `report.md`, every latency sample in `samples.npz`, and in `engine/`
            what was compiled of the chosen candidate, if its backend compiles.
        gates: Limits by gate name, added to the bundle's own or replacing them.
        backends: Names, or backends of the caller's own; by default the target's that are installed.
        candidates: Names; by default all.
        threads: Threads of one inference; by default the physical cores that this process may use.
        seconds, runs: Least time and least number of timed runs of each candidate.
        cache: Folder of compiled engines; by default the user's.
        rebuild: Compile again what an earlier check compiled, and time its kernels anew.
        progress: Called with (steps done, steps in all).

    Returns:
        The report, as written to `report.json`.

    Raises:
        ArtifactError: Not a bundle, or an altered one.
        ConfigError: An unknown name, a limit or number out of its range, a bundle for another kind of machine, or
            another check that is running here.
        MissingDependencyError: A backend's package is not installed.
        OutputError: `out` exists, or cannot be written.
        DeviceError: No candidate could be run.
    """
    out = Path(out)
    refuse_existing(out, overwrite=overwrite)
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1; got {threads}")
    protocol = LatencyProtocol(runs=runs, seconds=seconds)
    bundle = load_bundle(bundle_path)
    limits = check_limits({**bundle.gates, **(gates or {})})
    device = describe_device()
    plan = make_plan(bundle, backends, candidates, device)
    threads = threads or device.default_threads
    preparation = _compare_preprocessing(bundle)
    trials = [Trial(pair=pair) for pair in plan.pairs]
    cache = cache or default_cache()
    with the_only_check(cache):
        if rebuild:
            for backend in {pair.backend.name: pair.backend for pair in plan.pairs}.values():
                backend.forget(cache)
        try:
            reference = _measure(trials, bundle, cache, threads, protocol, progress, rebuild=rebuild)
        finally:
            for trial in trials:
                trial.close()
    settings = asdict(protocol) | {
        "batch": bundle.batch,
        "threads": threads,
        "timed": _TIMED.format("one image" if bundle.batch == 1 else f"{bundle.batch} images"),
        "percentiles": _PERCENTILES,
    }
    report = _report(bundle, device, plan, trials, reference, limits, settings, preparation)
    write_report(out, report, bundle.artifact, _samples(trials), engine=_chosen(report, trials), overwrite=overwrite)
    return report


def _measure(
    trials: Sequence[Trial],
    bundle: Bundle,
    cache: Path,
    threads: int,
    protocol: LatencyProtocol,
    progress: Progress | None,
    *,
    rebuild: bool,
) -> Trial | None:
    """Steps 2 to 4 of the module's list; returns the reference of the accuracies."""
    images = 0 if bundle.evaluation is None else len(bundle.evaluation)
    others = 0 if bundle.gallery is None or not images else len(bundle.gallery)
    total, done = len(trials) + images + others + len(trials) * protocol.rounds, 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    for trial in trials:
        start(trial, bundle, cache, threads, rebuild=rebuild)
        tick()
    reference = evaluate(trials, bundle, tick) if images else find_reference(trials)
    if not still_in(trials) and all(trial.failed for trial in trials):
        raise DeviceError("; ".join(f"{trial.label}: {trial.disqualified}" for trial in trials))
    for trial in trials:
        if trial.disqualified is not None or not trial.pair.timed:
            trial.close()
    time_together(trials, bundle, protocol, PowerMeter(), lambda _turn, _turns: tick())
    if progress is not None:
        progress(total, total)
    return reference


def _report(
    bundle: Bundle,
    device: Device,
    plan: Plan,
    trials: Sequence[Trial],
    reference: Trial | None,
    limits: Mapping[str, float],
    protocol: Mapping[str, Any],
    preparation: Mapping[str, Any],
) -> dict[str, Any]:
    rows = [report_row(trial, trials, limits) for trial in trials]
    chosen = choose(rows)
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": verdict(rows, chosen, trials[0].pair.backend.processor),
        "passed": chosen is not None,
        "chosen": None if chosen is None else chosen["name"],
        "chosen_backend": None if chosen is None else chosen["backend"],
        "reference": None if reference is None else reference.label,
        "caveats": caveats(bundle, device, plan, trials, reference, preparation),
        "bundle": {
            "path": str(bundle.artifact.path),
            "fingerprint": bundle.artifact.fingerprint,
            "architecture": bundle.architecture,
            "parameters": bundle.parameters,
            "target": bundle.target.name,
        },
        "device": device.to_dict(),
        "protocol": dict(protocol),
        "preprocessing": dict(preparation),
        "gates": {
            name: {"limit": limit, "from": "bundle" if bundle.gates.get(name) == limit else "caller"}
            for name, limit in limits.items()
        },
        "candidates": rows,
    }


def _compare_preprocessing(bundle: Bundle) -> dict[str, Any]:
    """How far this device is off when it prepares the golden images: decoding and resizing, then normalising.

    Returns:
        `max_levels`, the largest difference of a pixel in grey levels, None where the images stayed behind; `max_abs`,
        that of the normalised golden pixels, None where the graph normalises; `exact`, whether there is none at all.

    Raises:
        DeviceError: So far off that the model would see other images here.
    """
    levels = None if bundle.golden.images is None else _levels_off(bundle.golden.images, bundle)
    if bundle.encoding == "pixels":
        return {"exact": not levels, "max_levels": levels, "max_abs": None}
    ours, theirs = bundle.preprocess.normalise(bundle.golden.pixels), bundle.golden.inputs
    off = float(np.abs(ours - theirs).max())
    if not off <= _PREPROCESSING_TOLERANCE:
        raise DeviceError(
            f"this device normalises the golden pixels differently by {off:.3g}: nothing measured here would "
            "be about the model in the bundle; install another numpy, or write the bundle again"
        )
    exact = bool(np.array_equal(ours, theirs))
    return {"exact": exact and not levels, "max_levels": levels, "max_abs": off}


def _levels_off(images: Evaluation, bundle: Bundle) -> int:
    """Largest difference between a golden image as decoded and resized here and its golden pixels."""
    levels = 0
    for index, data in enumerate(images.encoded()):
        try:
            ours = bundle.preprocess.pixels(read_image(data))
        except DataError as error:
            raise DeviceError(
                f"this device cannot decode the golden {images.members[index]}; install a Pillow that knows its format"
            ) from error
        difference = np.abs(ours.astype(np.int16) - bundle.golden.pixels[index])
        levels = max(levels, int(difference.max()))
    if levels > _LARGEST_LEVELS:
        raise DeviceError(
            f"this device decodes or resizes the golden images differently, by {levels} of 255 grey levels "
            f"(at most {_LARGEST_LEVELS} can be rounding): the model would see other images here; install the "
            "Pillow that the bundle was made with"
        )
    return levels


def _chosen(report: Mapping[str, Any], trials: Sequence[Trial]) -> Path | None:
    """The folder of the engine that ships; None if nothing does, or its backend runs the bundle's own file."""
    wanted = (report["chosen"], report["chosen_backend"])
    chosen = (t for t in trials if (t.pair.candidate.name, t.pair.backend.name) == wanted and t.pair.timed)
    engine = next((trial.engine for trial in chosen), None)
    return None if engine is None else engine.folder


def _samples(trials: Sequence[Trial]) -> dict[str, npt.NDArray[Any]]:
    """Arrays for `samples.npz`: nanoseconds and round of every timed run, milliseconds on the device where known."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for trial in trials:
        if trial.samples is not None:
            key = f"{trial.pair.candidate.name}@{trial.pair.backend.name}"
            arrays[f"{key}.ns"] = trial.samples.nanoseconds
            arrays[f"{key}.round"] = trial.samples.rounds
            if trial.samples.device_ms is not None:
                arrays[f"{key}.device_ms"] = trial.samples.device_ms
    return arrays
