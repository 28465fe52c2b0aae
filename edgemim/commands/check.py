"""`edgemim check`: measure a bundle on this device, or on boards elsewhere, and hold it to its gates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgemim.commands import _options as o
from edgemim.commands._boards import board_bars
from edgemim.commands._inputs import keep
from edgemim.commands._output import emit, progress_bar, remark
from edgemim.errors import EXIT_GATE_MISSED, EXIT_OK

if TYPE_CHECKING:
    from edgemim.remote.check import Options


def check(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the report.", metavar="DIR")] = None,
    gate: o.Gate = None,
    backend: Annotated[list[str] | None, typer.Option("--backend", help="Only this backend; can be repeated.")] = None,
    candidate: Annotated[
        list[str] | None,
        typer.Option("--candidate", "--candidates", help="Only this candidate, or several (A,B); can be repeated."),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Threads of a backend.", min=1)] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Least time measured per candidate.", min=0.01)] = 5.0,
    runs: Annotated[int, typer.Option("--runs", help="Least number of timed runs per candidate.", min=1)] = 662,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build engines anew that are in the cache.")] = False,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            help="Check on this board instead, over ssh; can be repeated, and then they run side by side.",
            metavar="ssh://[USER@]HOST[:PORT][/DIR]",
        ),
    ] = None,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Measure latency and accuracy of a bundle's candidates, choose the fastest within the gates, report.

    Exit code 1 when no candidate keeps the gates.

    Example: edgemim check runs/bundle --gate p99_ms=8 --gate top1.max_drop=0.005 --out runs/report
    """
    from edgemim.runtime.gates import parse_gates

    folder = out or bundle.with_name(f"{bundle.name}-report")
    keep(folder, bundle)
    gates = parse_gates(gate) if gate else None
    candidates = [name for names in candidate for name in names.split(",")] if candidate else None
    if device:
        from edgemim.remote.check import Options

        options = Options(
            gates=gates,
            backends=backend,
            candidates=candidates,
            threads=threads,
            seconds=seconds,
            runs=runs,
            rebuild=rebuild,
        )
        _tell(_check_on_boards(bundle, folder, device, options, overwrite=overwrite), folder, as_json=json)
        return
    from edgemim.runtime.check import check_bundle

    with progress_bar(f"check {bundle.name}") as progress:
        report = check_bundle(
            bundle,
            folder,
            gates=gates,
            backends=backend,
            candidates=candidates,
            threads=threads,
            seconds=seconds,
            runs=runs,
            rebuild=rebuild,
            overwrite=overwrite,
            progress=progress,
        )
    _tell(report, folder, as_json=json)


def _check_on_boards(
    bundle: Path, folder: Path, devices: list[str], options: Options, *, overwrite: bool
) -> dict[str, Any]:
    from edgemim.remote.address import parse_addresses
    from edgemim.remote.check import check_on_boards
    from edgemim.remote.session import RemoteError

    addresses = parse_addresses(devices)
    with board_bars([address.text for address in addresses]) as progress:
        try:
            return check_on_boards(bundle, folder, addresses, options, overwrite=overwrite, progress=progress)
        except RemoteError as error:
            if error.trace:
                remark(error.trace)
            raise


def _tell(report: dict[str, Any], folder: Path, *, as_json: bool) -> None:
    """The report on stdout, its verdict on stderr, and the exit code."""
    if as_json:
        emit({**report, "report": str(folder)}, as_json=True)
    else:
        typer.echo((folder / "report.md").read_text("utf-8"))
    remark(report["verdict"])
    code = report.get("exit_code", EXIT_OK if report["passed"] else EXIT_GATE_MISSED)
    if code != EXIT_OK:
        raise typer.Exit(code)
