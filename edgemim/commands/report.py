"""`edgemim report`: one page for people from a report folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgemim.commands import _options as o
from edgemim.commands._ladder import climb_ladder
from edgemim.commands._output import emit, show
from edgemim.errors import EdgemimError

if TYPE_CHECKING:
    from edgemim.artifact import Artifact


def report(
    folder: Annotated[Path, typer.Argument(help="What check, bench, compare or sweep wrote.", metavar="DIR")],
    parity: Annotated[
        Path | None,
        typer.Option(
            "--parity",
            help="Bundle to compare block by block, or what inspect --parity --json printed; "
            "default: the report's bundle, where it still is.",
            metavar="BUNDLE|FILE",
        ),
    ] = None,
    sensitivity: Annotated[
        Path | None, typer.Option("--sensitivity", help="What edgemim sensitivity wrote.", metavar="DIR")
    ] = None,
    json: o.Json = False,
) -> None:
    """Write DIR/report.html: one file that opens without a network, on a phone too.

    Example: edgemim report runs/bundle-report --sensitivity runs/sensitivity
    """
    from edgemim.report.html import need_drawing, write_html

    need_drawing()
    ladder, why_not = _ladder(folder, parity)
    page = write_html(folder, parity=ladder, sensitivity=sensitivity, why_no_parity=why_not)
    emit({"page": str(page)}, as_json=True) if json else show(str(page))


def _ladder(folder: Path, parity: Path | None) -> tuple[Mapping[str, Any] | None, str]:
    """The parity ladder, or None and why there is none."""
    from edgemim.artifact import load_artifact
    from edgemim.report.source import read_ladder

    if parity is not None and not parity.is_dir():
        return read_ladder(parity), ""
    if parity is not None:
        return climb_ladder(load_artifact(parity, ("bundle", "onnx")), against=None), ""
    try:
        return climb_ladder(_own_bundle(folder), against=None), ""
    except EdgemimError as error:
        return None, f"{error}; give --parity BUNDLE"


def _own_bundle(folder: Path) -> Artifact:
    """The bundle that the report is about, if it still lies where it was measured.

    Raises:
        ArtifactError: It does not, or it is another one by now.
    """
    from edgemim.artifact import load_artifact
    from edgemim.errors import ArtifactError
    from edgemim.runtime.report.read import read_report

    bundle = read_report(folder).get("bundle")
    if not isinstance(bundle, dict):
        raise ArtifactError(f"{folder} is not a report on one bundle")
    found = load_artifact(bundle["path"], "bundle")
    if found.fingerprint != bundle["fingerprint"]:
        raise ArtifactError(f"{bundle['path']} is not the bundle that was measured: its fingerprint differs")
    return found
