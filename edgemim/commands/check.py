"""`edgemim check`: measure a bundle on this device, or on boards elsewhere, and hold it to its gates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemim.commands import _options as o
from edgemim.commands._gates import read_gates
from edgemim.commands._inputs import beside, keep, named, named_out
from edgemim.commands._measuring import measure_on_boards, names, tell
from edgemim.commands._output import progress_bar


def check(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the report.", metavar="DIR", callback=named_out)
    ] = None,
    gate: o.Gate = None,
    gates: o.Gates = None,
    allow_unmeasured: o.AllowUnmeasured = None,
    backend: o.OnlyBackend = None,
    candidate: o.OnlyCandidate = None,
    threads: o.Threads = None,
    mode: o.Mode = "quick",
    seconds: o.Seconds = None,
    runs: o.Runs = None,
    rebuild: o.Rebuild = False,
    device: o.Device = None,
    page: o.Page = True,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Measure latency and accuracy of a bundle's candidates, choose the fastest within the gates, report.

    Exit code 1 when no candidate keeps the gates.

    Example: edgemim check runs/bundle --gate p99_ms=8 --gate top1.max_drop=0.005
    """
    from edgemim.runtime.check import check_bundle
    from edgemim.runtime.settings import CheckSettings

    bundle = named(bundle)
    folder = out or beside(bundle, "report")
    keep(folder, bundle)
    limits, allowed = read_gates(gates, gate, allow_unmeasured)
    settings = CheckSettings(
        gates=limits,
        allow_unmeasured=allowed,
        backends=backend,
        candidates=names(candidate),
        threads=threads,
        mode=mode,
        seconds=seconds,
        runs=runs,
        rebuild=rebuild,
    )
    if device:
        report = measure_on_boards(bundle, folder, device, settings, overwrite=overwrite)
    else:
        with progress_bar(f"check {bundle.name}") as progress:
            report = check_bundle(bundle, folder, **vars(settings), overwrite=overwrite, progress=progress)
    tell(report, folder, as_json=json, page=page)
