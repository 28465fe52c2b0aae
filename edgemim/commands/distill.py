"""`edgemim distill`: a small student learns from a masked teacher, without labels."""

from __future__ import annotations

from typing import Annotated

import typer

from edgemim.commands import _options as o
from edgemim.commands._inputs import keep
from edgemim.commands._output import emit, remark_default_data
from edgemim.commands._settings import require_method, run_values, training_options
from edgemim.commands._summary import summarise, telling_how_to_resume


def distill(
    context: typer.Context,
    out: o.Out,
    teacher: o.Teacher,
    data: o.Data = None,
    student: Annotated[
        str | None, typer.Option("--student", help="timm backbone of the student.", metavar="NAME")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="edgemim list methods; default: dmae.", metavar="NAME")
    ] = None,
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
    """Distil a big masked teacher into a small student.

    Example: edgemim distill --data photos/ --teacher runs/teacher --student vit_tiny_patch16_224 --epochs 100
    --out runs/student
    """
    keep(out, teacher, init, data)
    options = training_options(
        data=data, epochs=epochs, steps=steps, batch_size=batch_size, seed=seed, deterministic=deterministic
    )
    options |= {"method.name": method, "teacher.source": teacher, "cache_teacher": cache_teacher or None}
    require_method({"name": method}, command="distill")
    values = run_values(recipe or method or "dmae", options=options, backbone=student, sets=set_, init=init)
    require_method(values.get("method"), command="distill")
    from edgemim.config import build
    from edgemim.training.pretrain import pretrain as run
    from edgemim.training.settings.run import RunSettings

    remark_default_data(values)
    with telling_how_to_resume(context):
        result = run(
            build(RunSettings, values),
            out,
            stage="distill",
            resume=resume,
            overwrite=overwrite,
            accept_changes=accept_changes,
        )
    emit(result, as_json=json)
    export = f"edgemim export {out} --target x86 --out DIR"
    summarise(result, out, context, following=f"edgemim finetune {out} --data DATA --out DIR, or {export}")
