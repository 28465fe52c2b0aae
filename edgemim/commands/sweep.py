"""`edgemim sweep`: several models, precisions and input sizes for one target; what fits the budget?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemim.commands import _options as o
from edgemim.commands._inputs import keep
from edgemim.commands._measuring import names, tell
from edgemim.commands._output import progress_bar, remark


def sweep(
    target: Annotated[str, typer.Option("--target", help="edgemim list targets", metavar="NAME")],
    out: o.Out,
    checkpoint: Annotated[list[Path] | None, typer.Argument(help="Checkpoint folders.")] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone",
            help="timm backbone with random weights: latency and size alone, INT8 ranges from noise; can be repeated.",
            metavar="NAME",
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            help="fp32, fp16, bf16, int8, or one INT8 candidate such as int8-linear; can be repeated; default: all.",
            metavar="P",
        ),
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option(
            "--size",
            help="Input of N x N pixels for every model; can be repeated. Default: each model's own. A checkpoint at "
            "another size than its own keeps its weights, a transformer's positions are resampled, and its accuracy is "
            "measured as it then is.",
            metavar="N",
            min=1,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Images to calibrate on and to measure accuracy on; default: those that a checkpoint was trained on, "
            "and noise for a backbone.",
            metavar="DATA",
        ),
    ] = None,
    max_ms: Annotated[
        float | None, typer.Option("--max-ms", help="What fits: the largest median latency of one image.", metavar="MS")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            help="Begin nothing that would end after so many; cheap models come first, by parameters x pixels.",
            metavar="M",
        ),
    ] = None,
    mode: o.Mode = "quick",
    seconds: o.Seconds = None,
    runs: o.Runs = None,
    threads: o.Threads = None,
    resume: o.Resume = False,
    page: o.Page = True,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Export and measure models one after another, the best of them once more side by side, and report what fits.

    Exit code 1 when nothing fits --max-ms. A call that was stopped goes on with --resume.

    Example: edgemim sweep --backbone vit_tiny_patch16_224 --backbone resnet18 --target x86 --max-ms 8 --out runs/sweep
    """
    from edgemim.pipeline.sweep.run import run_sweep
    from edgemim.pipeline.sweep.settings import SweepSettings

    keep(out, data, *(checkpoint or ()))
    settings = SweepSettings(
        target=target,
        checkpoints=tuple(checkpoint or ()),
        backbones=tuple(names(backbone) or ()),
        precisions=tuple(dict.fromkeys(names(precision) or ())),
        sizes=tuple(dict.fromkeys(size or ())),
        data=data or "",
        max_ms=max_ms,
        minutes=minutes,
        mode=mode,
        seconds=seconds,
        runs=runs,
        threads=threads,
    )
    with progress_bar(f"sweep {out.name}") as progress:
        report = run_sweep(settings, out, resume=resume, overwrite=overwrite, say=remark, progress=progress)
    tell(report, out, as_json=json, page=page)
