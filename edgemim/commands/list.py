"""`edgemim list`: every plug-in by kind, with its source and what it needs."""

from __future__ import annotations

import fnmatch
import sys
from typing import Annotated, Any

import typer

from edgemim.commands import _options as o
from edgemim.commands._output import emit


def list_(
    kind: Annotated[
        str,
        typer.Argument(
            help="methods, maskings, losses, layouts, sources, ranges, placements, quantizers, targets, backends, "
            "backbones or recipes."
        ),
    ],
    filter_: Annotated[str | None, typer.Option("--filter", help="Shell pattern on the names.")] = None,
    json: o.Json = False,
) -> None:
    """List plug-ins of one kind; nothing of them is imported.

    Example: edgemim list backbones --filter 'vit_*'
    """
    rows = [row for row in _rows(kind) if fnmatch.fnmatch(row["name"], filter_ or "*")]
    if json:
        emit({kind: rows}, as_json=True)
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        needs = f" (needs {row['needs']})" if row.get("needs", "nothing") != "nothing" else ""
        sys.stdout.write(f"{row['name']:<{width}}  {row['summary']}{needs}\n")


def _rows(kind: str) -> list[dict[str, Any]]:
    if kind == "backbones":
        from edgemim.models.build import backbone_names

        return [{"name": n, "summary": f"timm, family {family}"} for n, family in backbone_names().items()]
    if kind == "recipes":
        from edgemim.config import recipe_names, recipe_summary

        return [{"name": n.replace("_", "-"), "summary": recipe_summary(n)} for n in recipe_names()]
    from edgemim.registry import find_registry

    registry = find_registry(kind)
    return [{"name": d.name, "summary": d.summary, **d.sections} for d in registry.describe_all()]
