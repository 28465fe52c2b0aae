"""`edgemim check`: measure a bundle on this device and hold it to its gates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemim.commands import _options as o
from edgemim.commands._inputs import keep
from edgemim.commands._output import emit, progress_bar, remark
from edgemim.errors import EXIT_GATE_MISSED


def check(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the report.", metavar="DIR")] = None,
    gate: o.Gate = None,
    backend: Annotated[list[str] | None, typer.Option("--backend", help="Only this backend; can be repeated.")] = None,
    candidate: Annotated[
        list[str] | None, typer.Option("--candidate", help="Only this candidate; can be repeated.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Threads of a backend.", min=1)] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Least time measured per candidate.", min=0.01)] = 5.0,
    runs: Annotated[int, typer.Option("--runs", help="Least number of timed runs per candidate.", min=1)] = 662,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Measure latency and accuracy of a bundle's candidates here, choose the fastest within the gates, report.

    Exit code 1 when no candidate keeps the gates.

    Example: edgemim check runs/bundle --gate p99_ms=8 --gate top1.max_drop=0.005 --out runs/report
    """
    from edgemim.runtime.check import check_bundle
    from edgemim.runtime.gates import parse_gates

    folder = out or bundle.with_name(f"{bundle.name}-report")
    keep(folder, bundle)
    with progress_bar(f"check {bundle.name}") as progress:
        report = check_bundle(
            bundle,
            folder,
            gates=parse_gates(gate) if gate else None,
            backends=backend,
            candidates=candidate,
            threads=threads,
            seconds=seconds,
            runs=runs,
            overwrite=overwrite,
            progress=progress,
        )
    if json:
        emit({**report, "report": str(folder)}, as_json=True)
    else:
        typer.echo((folder / "report.md").read_text("utf-8"))
    remark(report["verdict"])
    if not report["passed"]:
        raise typer.Exit(EXIT_GATE_MISSED)
