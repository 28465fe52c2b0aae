"""`edgemim convert`: public weights become a checkpoint folder, and a checkpoint folder public weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgemim.commands import _options as o
from edgemim.commands._inputs import keep, named_out
from edgemim.commands._output import emit


def convert(
    file: Annotated[Path, typer.Argument(help="A .pth or .safetensors file; with --to one of our checkpoints.")],
    out: Annotated[
        Path,
        typer.Option("--out", help="Folder to write; with --to a .pth or .safetensors file.", callback=named_out),
    ],
    from_: Annotated[
        str | None,
        typer.Option("--from", help="Whose names the tensors have (edgemim list layouts).", metavar="LAYOUT"),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="Whose names the tensors are to get.", metavar="LAYOUT")
    ] = None,
    backbone: o.Backbone = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Of the weights.")] = None,
    overwrite: o.Overwrite = False,
    set_: o.Set = None,
    json: o.Json = False,
) -> None:
    """Turn a public state dict into a checkpoint folder, or (with --to) a checkpoint folder into a state dict.

    Example: edgemim convert mae_pretrain_vit_base.pth --from mae --out runs/base
    """
    from edgemim.errors import ConfigError

    if (from_ is None) == (to is None):
        raise ConfigError("say either --from LAYOUT (a file becomes a folder) or --to LAYOUT (a folder becomes a file)")
    keep(out, file)
    if to is not None:
        given = {"--backbone": backbone, "--licence": licence, "--set": set_}
        surplus = [name for name, value in given.items() if value]
        if surplus:
            raise ConfigError(f"{surplus[0]} has no meaning with --to: the folder says what it is; leave it out")
        emit(_to_file(file, out, to, overwrite), as_json=json)
        return
    assert from_ is not None
    emit(_to_folder(file, out, from_, backbone, licence, overwrite, set_), as_json=json)


def _to_file(folder: Path, out: Path, layout: str, overwrite: bool) -> dict[str, Any]:
    from edgemim.models.convert import convert_folder

    return convert_folder(folder, out, layout=layout, overwrite=overwrite)


def _to_folder(
    file: Path,
    out: Path,
    layout: str,
    backbone: str | None,
    licence: str | None,
    overwrite: bool,
    set_: list[str] | None,
) -> dict[str, Any]:
    from edgemim.config import override
    from edgemim.models.convert import convert_file

    values = override({"backbone": {"name": backbone or ""}}, set_ or [])
    artifact = convert_file(file, out, layout=layout, settings=values, licence=licence, overwrite=overwrite)
    return {"checkpoint": str(out), **artifact.content}
