"""`edgemim convert`: weights from elsewhere become a checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemim.commands import _options as o
from edgemim.commands._inputs import keep
from edgemim.commands._output import emit


def convert(
    file: Annotated[Path, typer.Argument(help="A .pth or .safetensors state dict.")],
    out: o.Out,
    from_: Annotated[str, typer.Option("--from", help="Whose names the tensors have: timm.", metavar="LAYOUT")],
    backbone: o.Backbone = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Of the weights.")] = None,
    overwrite: o.Overwrite = False,
    set_: o.Set = None,
    json: o.Json = False,
) -> None:
    """Turn a state dict into a checkpoint folder.

    Example: edgemim convert mae_vit_base.pth --from timm --backbone vit_base_patch16_224 --out runs/base
    """
    from edgemim.config import override
    from edgemim.models.convert import convert_file

    keep(out, file)
    values = override({"backbone": {"name": backbone or ""}}, set_ or [])
    artifact = convert_file(file, out, layout=from_, settings=values, licence=licence, overwrite=overwrite)
    emit({"checkpoint": str(out), **artifact.content}, as_json=json)
