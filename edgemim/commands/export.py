"""`edgemim export`: a checkpoint becomes a bundle for a device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgemim.commands import _options as o
from edgemim.commands._gates import read_gates
from edgemim.commands._host_check import host_check_lines
from edgemim.commands._inputs import keep
from edgemim.commands._ladder import climb_ladder, tell_ladder
from edgemim.commands._output import emit, progress_bar, remark
from edgemim.errors import EXIT_GATE_MISSED


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder.")],
    target: Annotated[str, typer.Option("--target", help="edgemim list targets", metavar="NAME")],
    out: o.Out,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            help="int8: float and INT8 candidates; float: the target's float ones only; fp32: that alone; auto: search "
            "on this machine and choose.",
            metavar="P",
        ),
    ] = "int8",
    quantizer: Annotated[
        str, typer.Option("--quantizer", help="Who quantizes (edgemim list quantizers).", metavar="NAME")
    ] = "ptq",
    placement: Annotated[
        list[str] | None,
        typer.Option(
            "--placement",
            help="Which tensors become INT8 (edgemim list placements); can be repeated; default: all placements that "
            "can be right for the model.",
            metavar="NAME",
        ),
    ] = None,
    ranges: Annotated[
        str | None,
        typer.Option(
            "--ranges",
            help="How a histogram becomes a range (edgemim list ranges); default: the quantizer's own, mse.",
            metavar="NAME",
        ),
    ] = None,
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
    gallery: Annotated[
        str | None,
        typer.Option(
            "--gallery",
            help="Data whose training images travel in the bundle, to compare neighbours with fp32's.",
            metavar="DATA",
        ),
    ] = None,
    gallery_count: Annotated[int, typer.Option("--gallery-count", min=1)] = 1000,
    gate: o.Gate = None,
    gates: o.Gates = None,
    max_drop: Annotated[
        float,
        typer.Option("--max-drop", help="auto: largest loss of top-1, a share; without labels the cosine decides."),
    ] = 0.005,
    minutes: Annotated[float, typer.Option("--minutes", help="auto: time for the search.", min=0.0)] = 20.0,
    threads: Annotated[
        int, typer.Option("--threads", help="auto: threads of one inference; 0: the physical cores.", min=0)
    ] = 0,
    input_: Annotated[
        str,
        typer.Option(
            "--input",
            help="pixels: uint8 [B, H, W, 3], normalised in the graph; float: normalised float32 [B, 3, H, W].",
            metavar="KIND",
        ),
    ] = "pixels",
    output: Annotated[
        str,
        typer.Option("--output", help="head: logits or embedding; tokens: the patch tokens beside it.", metavar="KIND"),
    ] = "head",
    batch: Annotated[int, typer.Option("--batch", help="Images per run.", min=1)] = 1,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every flavour with the checkpoint, block by block.")
    ] = False,
    seed: o.Seed = None,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Export a checkpoint to ONNX, quantize it to INT8, and pack a bundle that the device can check.

    With --precision auto candidates are measured on this machine; exit code 1 when none keeps the budget.

    Example: edgemim export runs/classifier --target x86 --calibration photos/ --gate top1.max_drop=0.01
    --out runs/bundle
    """
    from edgemim.config import build

    keep(out, checkpoint, calibration, evaluation, gallery)
    limits, may_lack = read_gates(gates, gate, None)
    values = {
        "target": target,
        "precision": precision,
        "quantizer": quantizer,
        "placements": placement or [],
        "ranges": ranges or "",
        "calibration": calibration or "",
        "calibration_count": calibration_count,
        "evaluation": evaluation or "",
        "evaluation_count": evaluation_count,
        "gallery": gallery or "",
        "gallery_count": gallery_count,
        "gates": limits,
        "allow_unmeasured": may_lack,
        "max_drop": max_drop,
        "minutes": minutes,
        "threads": threads,
        "input": input_,
        "output": output,
        "batch": batch,
        "seed": seed or 0,
    }
    from edgemim.pipeline.make_bundle import BundleSettings, make_bundle
    from edgemim.runtime.targets import TARGETS

    with progress_bar(f"export {checkpoint.name}") as progress:
        settings = build(BundleSettings, values)
        artifact = make_bundle(checkpoint, out, settings, say=remark, overwrite=overwrite, progress=progress)
    ladder = climb_ladder(artifact, against=checkpoint) if verify else None
    choice = artifact.content["choice"] or {}
    shown = {"bundle": str(out), **artifact.content, **choice} if json or not choice else _in_words(out, choice)
    if "host_check" in artifact.content and not json:
        shown = {k: v for k, v in shown.items() if k != "host_check"} | host_check_lines(artifact.content["host_check"])
    emit({**shown, **({"ladder": ladder} if ladder and json else {})}, as_json=json)
    if ladder:
        tell_ladder(ladder, as_json=json)
    if TARGETS.get(target).builds_on_device:
        remark(
            f"the bundle holds ONNX; engines are built on the device: copy {out} there, run: edgemim check {out.name}"
        )
    else:
        remark(f"next: edgemim check {out}, here or on the device")
    if choice:
        remark(choice["verdict"])
        if choice["chosen"] is None:
            raise typer.Exit(EXIT_GATE_MISSED)


def _in_words(out: Path, choice: Mapping[str, Any]) -> dict[str, str]:
    """What a search came to, one candidate a line."""
    lines = {"bundle": str(out), "tried": f"{choice['tried']} candidates"}
    for row in choice["candidates"]:
        score = "accuracy" if "accuracy" in row else "cosine"
        facts = [] if row["p50_ms"] is None else [f"p50 {row['p50_ms']:.3g} ms", f"{score} {row[score]:.4f}"]
        if row["disqualified"]:
            facts.append(row["disqualified"])
        elif not row["within_budget"]:
            facts.append("outside the budget")
        lines[f"{row['name']} on {row['backend']}"] = ", ".join(facts)
    return lines
