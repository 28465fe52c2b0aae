"""`edgemim export`: a checkpoint becomes a bundle for a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemim.commands import _options as o
from edgemim.commands._inputs import keep
from edgemim.commands._output import emit, remark


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder.")],
    target: Annotated[str, typer.Option("--target", help="edgemim list targets", metavar="NAME")],
    out: o.Out,
    precision: Annotated[
        str, typer.Option("--precision", help="int8: fp32 and INT8 candidates; fp32: only that.", metavar="P")
    ] = "int8",
    calibration: Annotated[
        str | None,
        typer.Option("--calibration", help="Images to calibrate on; default: those it was trained on.", metavar="DATA"),
    ] = None,
    calibration_count: Annotated[int, typer.Option("--calibration-count", min=1)] = 300,
    evaluation: Annotated[
        str | None,
        typer.Option(
            "--evaluation",
            help="Data whose test images travel in the bundle; default: those of the training data; none: no images.",
            metavar="DATA",
        ),
    ] = None,
    evaluation_count: Annotated[int, typer.Option("--evaluation-count", min=1)] = 2000,
    gate: o.Gate = None,
    seed: o.Seed = None,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Export a checkpoint to ONNX, quantize it to INT8, and pack a bundle that the device can check.

    Example: edgemim export runs/classifier --target x86 --calibration photos/ --gate top1.max_drop=0.01
    --out runs/bundle
    """
    from edgemim.config import build
    from edgemim.runtime.gates import parse_gates

    keep(out, checkpoint, calibration, evaluation)
    gates = parse_gates(gate) if gate else {}
    values = {
        "target": target,
        "precision": precision,
        "calibration": calibration or "",
        "calibration_count": calibration_count,
        "evaluation": evaluation or "",
        "evaluation_count": evaluation_count,
        "gates": gates,
        "seed": seed or 0,
    }
    from edgemim.pipeline.make_bundle import BundleSettings, make_bundle
    from edgemim.runtime.targets import TARGETS

    artifact = make_bundle(checkpoint, out, build(BundleSettings, values), say=remark, overwrite=overwrite)
    emit({"bundle": str(out), **artifact.content}, as_json=json)
    if TARGETS.get(target).builds_on_device:
        remark(
            f"the bundle holds ONNX; engines are built on the device: copy {out} there, run: edgemim check {out.name}"
        )
    else:
        remark(f"next: edgemim check {out}, here or on the device")
