"""`edgemim finetune`: a checkpoint gets a classification head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemim.commands import _options as o
from edgemim.commands._inputs import keep
from edgemim.commands._output import emit, remark_default_data
from edgemim.commands._settings import run_values, training_options
from edgemim.commands._summary import summarise, telling_how_to_resume


def finetune(
    context: typer.Context,
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a pretrained or distilled backbone.")],
    out: o.Out,
    data: o.Data = None,
    recipe: o.Recipe = None,
    epochs: o.Epochs = None,
    steps: o.Steps = None,
    batch_size: o.BatchSize = None,
    seed: o.Seed = None,
    resume: o.Resume = False,
    accept_changes: o.AcceptChanges = False,
    overwrite: o.Overwrite = False,
    deterministic: o.Deterministic = False,
    set_: o.Set = None,
    json: o.Json = False,
) -> None:
    """Fine-tune a checkpoint on labelled images.

    Example: edgemim finetune runs/student --data labelled/ --epochs 50 --batch-size 128 --out runs/classifier
    """
    keep(out, checkpoint, data)
    options = training_options(
        data=data, epochs=epochs, steps=steps, batch_size=batch_size, seed=seed, deterministic=deterministic
    )
    values = run_values(recipe or "finetune", options=options, sets=set_, init=checkpoint)
    from edgemim.config import build
    from edgemim.training.finetune import FinetuneSettings
    from edgemim.training.finetune import finetune as run

    remark_default_data(values)
    with telling_how_to_resume(context):
        result = run(
            build(FinetuneSettings, values), out, resume=resume, overwrite=overwrite, accept_changes=accept_changes
        )
    emit(result, as_json=json)
    summarise(result, out, context, following=f"edgemim export {out} --target x86 --out DIR")
