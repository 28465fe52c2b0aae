"""Check a bundle on this device: right first, then fast, then the gates, then one sentence.

1. verify every hash of the bundle, prepare the golden images, plan candidates times backends
2. start each pair once in a process of its own, for its memory; then here: compile, run the golden inputs, and drop
   what computes something else
3. accuracy on the bundle's images, prepared on this device
4. latency of all that are left, in turns
5. gates; the fastest that passes is chosen; the report is written
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgemim.runtime.backends._base import Backend
from edgemim.runtime.measuring import Progress
from edgemim.runtime.run import run
from edgemim.runtime.settings import CheckSettings


def check_bundle(
    bundle_path: Path | str,
    out: Path | str,
    *,
    gates: Mapping[str, float] | None = None,
    allow_unmeasured: Sequence[str] = (),
    judge: bool = True,
    backends: Sequence[str | Backend] | None = None,
    candidates: Sequence[str] | None = None,
    threads: int | None = None,
    mode: str = "quick",
    seconds: float | None = None,
    runs: int | None = None,
    rebuild: bool = False,
    probe: bool = True,
    cache: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a bundle's candidates on this device, hold them to the gates, and write a report.

    Args:
        out: Folder of the report: `report.json`, `report.md`, every sample in `samples.npz`, thumbnails of images that
            are classed otherwise than by fp32 in `flips/`, and in `engine/` what was compiled of the chosen candidate,
            if its backend compiles.
        gates, allow_unmeasured, judge, backends, candidates, threads, mode, seconds, runs, rebuild, probe: See
            `edgemim.runtime.settings.CheckSettings`.
        cache: Folder of compiled engines; by default the user's.
        progress: Called with (steps done, steps in all).

    Returns:
        The report, as written to `report.json`. Where no candidate runs right, its verdict says of each why, and
        `edgemim.runtime.outcome.exit_code` is that of a failed device.

    Raises:
        ArtifactError: Not a bundle, or an altered one.
        ConfigError: An unknown name, a limit or number out of its range, a bundle for another kind of machine, or
            another check that is running here.
        MissingDependencyError: A backend's package is not installed.
        OutputError: `out` exists, or cannot be written.
        DeviceError: This device prepares images differently, or a candidate that ran fails while it is timed.
    """
    settings = CheckSettings(
        gates=gates or {},
        allow_unmeasured=allow_unmeasured,
        judge=judge,
        backends=backends,
        candidates=candidates,
        threads=threads,
        mode=mode,
        seconds=seconds,
        runs=runs,
        rebuild=rebuild,
        probe=probe,
    )
    return run([bundle_path], out, settings, cache=cache, overwrite=overwrite, progress=progress)
