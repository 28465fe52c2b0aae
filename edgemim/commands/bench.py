"""`edgemim bench`: how fast the candidates of one bundle, or of several, are on this device or on boards elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemim.commands import _options as o
from edgemim.commands._inputs import beside, keep, named, named_out
from edgemim.commands._measuring import measure_on_boards, names, tell
from edgemim.commands._output import progress_bar
from edgemim.errors import ConfigError


def bench(
    bundles: Annotated[list[Path], typer.Argument(help="Bundle folders; several are measured in turns.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the report; by default BUNDLE-bench.", metavar="DIR", callback=named_out),
    ] = None,
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
    """Measure every candidate as `check` does, accuracy and memory too, but hold them to no gates and choose nothing.

    Example: edgemim bench runs/bundle runs/other-bundle --mode standard
    """
    from edgemim.runtime.bench import bench_bundles
    from edgemim.runtime.settings import CheckSettings

    bundles = [named(bundle) for bundle in bundles]
    folder = out or beside(bundles[0], "bench")
    for bundle in bundles:
        keep(folder, bundle)
    settings = CheckSettings(
        judge=False,
        backends=backend,
        candidates=names(candidate),
        threads=threads,
        mode=mode,
        seconds=seconds,
        runs=runs,
        rebuild=rebuild,
    )
    if device:
        if len(bundles) > 1:
            raise ConfigError(f"with --device one bundle is measured at a time; got {len(bundles)}")
        report = measure_on_boards(bundles[0], folder, device, settings, overwrite=overwrite)
    else:
        with progress_bar(f"bench {folder.name}") as progress:
            report = bench_bundles(bundles, folder, settings, overwrite=overwrite, progress=progress)
    tell(report, folder, as_json=json, page=page)
