"""`edgemim quickstart`: the whole story on this machine, from images to a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemim.commands import _options as o
from edgemim.commands._inputs import keep
from edgemim.commands._measuring import write_page
from edgemim.commands._output import emit, remark, show
from edgemim.errors import EXIT_GATE_MISSED


def quickstart(
    data: o.Data = None,
    minutes: Annotated[float, typer.Option("--minutes", help="About how long it may take.", min=1.0)] = 1.6,
    out: o.Out = Path("runs/quickstart"),
    seed: o.Seed = None,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Pretrain a teacher, distil a student, fine-tune, export, quantize to INT8, check, and print one table.

    Example: edgemim quickstart --data cifar10/ --minutes 15 --out runs/cifar10
    """
    keep(out, data)
    from edgemim.pipeline.quickstart import run_quickstart
    from edgemim.pipeline.table import quickstart_table

    result = run_quickstart(data or "digits", out, minutes=minutes, seed=seed or 0, overwrite=overwrite, say=remark)
    if json:
        emit(result, as_json=True)
    else:
        show(quickstart_table(result))
    remark(f"{result['verdict']}\nbundle {result['bundle']}, report {result['report']}/report.md")
    write_page(Path(result["report"]))
    if not result["passed"]:
        raise typer.Exit(EXIT_GATE_MISSED)
