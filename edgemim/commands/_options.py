"""The options that mean the same in every command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemim.commands._inputs import named_out

Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Images: a folder, an ImageFolder, parquet, webdataset shards, a hub name (owner/name), or digits; "
        "for pretrain and distill also stream:SHARDS, which copies nothing, or a URL of shards (s3://...).",
        metavar="DATA",
    ),
]
Backbone = Annotated[
    str | None, typer.Option("--backbone", help="timm backbone (edgemim list backbones).", metavar="NAME")
]
_TEACHER = typer.Option(
    "--teacher",
    help="Our checkpoint folder, a timm folder, a timm name, a hub id, or a .pth/.safetensors file "
    "(then also --set teacher.backbone=NAME).",
    metavar="TEACHER",
)
Teacher = Annotated[str, _TEACHER]
OptionalTeacher = Annotated[str | None, _TEACHER]
CacheTeacher = Annotated[
    bool,
    typer.Option(
        "--cache-teacher",
        help="Let the teacher look at every crop once, before training, and keep what it sees on disk "
        "(needs crops that come again: --set augmentation.views=8).",
    ),
]
Recipe = Annotated[
    str | None, typer.Option("--recipe", help="Name of a shipped recipe, or a TOML file.", metavar="NAME|FILE")
]
Epochs = Annotated[float | None, typer.Option("--epochs", help="Passes over the data.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Optimiser steps; wins over --epochs.", min=1)]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Images per step.", min=1)]
Seed = Annotated[int | None, typer.Option("--seed", help="Of every random number.", min=0)]
Init = Annotated[
    Path | None, typer.Option("--init", help="Checkpoint whose weights to start from.", metavar="CHECKPOINT")
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; must not exist.", metavar="DIR", callback=named_out)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the state saved in --out, if there is one.")]
AcceptChanges = Annotated[
    bool,
    typer.Option(
        "--accept-changes", help="With --resume: go on with other settings than the run had; the result says which."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output folder that edgemim wrote.")]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="Deterministic kernels: the same run gives the same bytes.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting of the recipe; can be repeated.", metavar="TABLE.NAME=VALUE"),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Gate = Annotated[
    list[str] | None,
    typer.Option("--gate", help="A budget, such as p99_ms=8 or top1.max_drop=0.005; can be repeated.", metavar="G=V"),
]
Gates = Annotated[
    Path | None,
    typer.Option(
        "--gates",
        help="TOML file of budgets: p99_ms = 8, top1.max_drop = 0.005, allow_unmeasured = ['energy_mj'].",
        metavar="FILE",
    ),
]
AllowUnmeasured = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-unmeasured",
        help="A gate that is kept where this device cannot measure it; can be repeated.",
        metavar="G",
    ),
]
OnlyBackend = Annotated[list[str] | None, typer.Option("--backend", help="Only this backend; can be repeated.")]
OnlyCandidate = Annotated[
    list[str] | None,
    typer.Option("--candidate", "--candidates", help="Only this candidate, or several (A,B); can be repeated."),
]
Threads = Annotated[int | None, typer.Option("--threads", help="Threads of a backend.", min=1)]
Mode = Annotated[
    str,
    typer.Option(
        "--mode",
        help="How long per candidate: quick (256 runs and 5 s), standard (1024 and 60 s), mlperf (600 s).",
        metavar="MODE",
    ),
]
Seconds = Annotated[
    float | None, typer.Option("--seconds", help="Least time measured per candidate, in place of the mode's.", min=0.01)
]
Runs = Annotated[
    int | None, typer.Option("--runs", help="Least number of timed runs per candidate, in place of the mode's.", min=1)
]
Rebuild = Annotated[bool, typer.Option("--rebuild", help="Build engines anew that are in the cache.")]
Device = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        help="Measure on this board instead, over ssh; can be repeated, and then they run side by side.",
        metavar="ssh://[USER@]HOST[:PORT][/DIR]",
    ),
]
Page = Annotated[bool, typer.Option("--page/--no-page", help="Also draw report.html, where the extra is installed.")]
