"""`edgemim pretrain`: a backbone learns from images without labels."""

from __future__ import annotations

from typing import Annotated

import typer

from edgemim.commands import _options as o
from edgemim.commands._inputs import keep
from edgemim.commands._output import emit, remark_default_data
from edgemim.commands._settings import require_method, run_values, training_options
from edgemim.commands._summary import summarise, telling_how_to_resume


def pretrain(
    context: typer.Context,
    out: o.Out,
    data: o.Data = None,
    backbone: o.Backbone = None,
    method: Annotated[
        str | None, typer.Option("--method", help="edgemim list methods; default: mae.", metavar="NAME")
    ] = None,
    teacher: o.OptionalTeacher = None,
    cache_teacher: o.CacheTeacher = False,
    recipe: o.Recipe = None,
    epochs: o.Epochs = None,
    steps: o.Steps = None,
    batch_size: o.BatchSize = None,
    seed: o.Seed = None,
    init: o.Init = None,
    resume: o.Resume = False,
    accept_changes: o.AcceptChanges = False,
    overwrite: o.Overwrite = False,
    deterministic: o.Deterministic = False,
    set_: o.Set = None,
    json: o.Json = False,
) -> None:
    """Pretrain a backbone by masked image modelling.

    Example: edgemim pretrain --data photos/ --backbone vit_tiny_patch16_224 --epochs 100 --batch-size 256
    --out runs/teacher
    """
    keep(out, teacher, init, data)
    options = training_options(
        data=data, epochs=epochs, steps=steps, batch_size=batch_size, seed=seed, deterministic=deterministic
    )
    options |= {"method.name": method, "teacher.source": teacher, "cache_teacher": cache_teacher or None}
    require_method({"name": method}, command="pretrain")
    values = run_values(recipe or method or "mae", options=options, backbone=backbone, sets=set_, init=init)
    require_method(values.get("method"), command="pretrain")
    from edgemim.config import build
    from edgemim.training.pretrain import pretrain as run
    from edgemim.training.settings.run import RunSettings

    remark_default_data(values)
    with telling_how_to_resume(context):
        result = run(
            build(RunSettings, values),
            out,
            stage="pretrain",
            resume=resume,
            overwrite=overwrite,
            accept_changes=accept_changes,
        )
    emit(result, as_json=json)
    finetune = f"edgemim finetune {out} --data DATA --out DIR"
    distill = f"edgemim distill --teacher {out} --student NAME --out DIR"
    summarise(result, out, context, following=f"{distill}, or {finetune}")
