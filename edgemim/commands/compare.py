"""`edgemim compare`: is one candidate, bundle or report faster than another on this device?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from edgemim.commands import _options as o
from edgemim.commands._inputs import beside, keep, named_out
from edgemim.commands._measuring import tell
from edgemim.commands._output import progress_bar


def compare(
    entries: Annotated[
        list[str],
        typer.Argument(
            help="Two or more of: a bundle (its chosen candidate), BUNDLE:CANDIDATE, BUNDLE:CANDIDATE@BACKEND, or a "
            "report (what it chose). All are compared with the first.",
            metavar="A B [C ...]",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the report; by default A-compare.", metavar="DIR", callback=named_out),
    ] = None,
    threads: o.Threads = None,
    mode: o.Mode = "quick",
    seconds: o.Seconds = None,
    runs: o.Runs = None,
    latency_only: Annotated[
        bool, typer.Option("--latency-only", help="Leave accuracy out; the bundles may carry different images.")
    ] = False,
    page: o.Page = True,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Measure candidates in turns on this device and say whether their latencies really differ, with an interval.

    A difference counts when the 99.9 % interval of the ratio lies beyond 1 % either way.

    Example: edgemim compare runs/bundle:fp32 runs/bundle:int8-linear@openvino --mode standard --out runs/compare
    """
    from edgemim.runtime.compare.compare import compare as compare_entries
    from edgemim.runtime.compare.entries import folder_of

    folders = [folder_of(entry) for entry in entries]
    folder = out or beside(Path(os.path.abspath(folders[0])), "compare")
    keep(folder, *folders)
    with progress_bar(f"compare {len(entries)}") as progress:
        report = compare_entries(
            entries,
            folder,
            threads=threads,
            mode=mode,
            seconds=seconds,
            runs=runs,
            latency_only=latency_only,
            overwrite=overwrite,
            progress=progress,
        )
    tell(report, folder, as_json=json, page=page)
