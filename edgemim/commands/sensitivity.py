"""`edgemim sensitivity`: what each layer costs in INT8."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemim.commands import _options as o
from edgemim.commands._inputs import keep
from edgemim.commands._output import emit, progress_bar, remark

_SHOWN = 10


def sensitivity(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder.")],
    out: o.Out,
    target: Annotated[str, typer.Option("--target", help="edgemim list targets", metavar="NAME")] = "x86",
    placement: Annotated[
        str, typer.Option("--placement", help="Whose layers to measure (edgemim list placements).", metavar="NAME")
    ] = "everything",
    calibration: Annotated[
        str | None,
        typer.Option("--calibration", help="Images to calibrate on; default: those it was trained on.", metavar="DATA"),
    ] = None,
    calibration_count: Annotated[int, typer.Option("--calibration-count", min=1)] = 300,
    images: Annotated[int, typer.Option("--images", help="Images that outputs are compared on.", min=1)] = 32,
    seed: o.Seed = None,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Put every layer into INT8 alone, and take every layer out alone; write the numbers and a picture.

    Example: edgemim sensitivity runs/classifier --calibration photos/ --out runs/sensitivity
    """
    from json import loads

    from edgemim.config import build
    from edgemim.pipeline.sensitivity import SensitivitySettings, find_sensitivity

    keep(out, checkpoint, calibration)
    values = {
        "target": target,
        "placement": placement,
        "calibration": calibration or "",
        "calibration_count": calibration_count,
        "images": images,
        "seed": seed or 0,
    }
    settings = build(SensitivitySettings, values)
    with progress_bar(f"sensitivity of {checkpoint.name}") as progress:
        artifact = find_sensitivity(checkpoint, out, settings, say=remark, overwrite=overwrite, progress=progress)
    content = loads(artifact.file("sensitivity.json").read_text("utf-8"))
    if json:
        emit({"report": str(out), **content}, as_json=True)
        return
    worst = sorted(content["units"], key=lambda entry: float(entry["disabled"]["noise"]))[:_SHOWN]
    emit({"noise, all in INT8": content["everything"]["noise"]}, as_json=False)
    emit({f"without {entry['unit']}": entry["disabled"]["noise"] for entry in worst}, as_json=False)
    remark(f"every unit, and the picture: {out}")
