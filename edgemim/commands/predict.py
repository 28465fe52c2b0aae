"""`edgemim predict`: what the chosen candidate says of images."""

from __future__ import annotations

import json as json_
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgemim.commands import _options as o
from edgemim.commands._output import remark
from edgemim.errors import EXIT_USER, DataError

if TYPE_CHECKING:
    from edgemim.runtime.predict.model import Model

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder, or the folder of a check's report.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders of them.")],
    top: Annotated[int, typer.Option("--top", help="So many of the likeliest classes.", min=1)] = 1,
    candidate: Annotated[
        str | None, typer.Option("--candidate", help="This candidate; by default the chosen one.", metavar="NAME")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option("--backend", help="On this backend; by default the one chosen with it.", metavar="NAME"),
    ] = None,
    threads: o.Threads = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image, one a line.")] = False,
) -> None:
    """Run the chosen candidate of a bundle on images: one line each, the likeliest class and its score.

    An image that cannot be read is told on stderr; the others are done, and the exit code is 2.

    Example: edgemim predict runs/bundle photos/ cat.jpg --top 3
    """
    from edgemim.runtime.predict.load import load

    files, unreadable = list(_files(images)), 0
    with load(bundle, candidate=candidate, backend=backend, threads=threads) as model:
        remark(f"{model.candidate} on {model.backend}, {model.chosen_by}")
        for file in files:
            try:
                (outputs,) = model(file)
            except DataError as error:
                unreadable += 1
                remark(f"edgemim: {error}")
                continue
            typer.echo(_as_json(model, file, outputs, top) if json else _as_text(model, file, outputs, top))
    if unreadable:
        raise typer.Exit(EXIT_USER)


def _files(given: Sequence[Path]) -> Iterator[Path]:
    """Files as they are, folders as the images in and below them, in order.

    Raises:
        DataError: A folder without images.
    """
    for path in given:
        if not path.is_dir():
            yield path
            continue
        found = sorted(f for f in path.rglob("*") if f.suffix.lower() in _SUFFIXES and f.is_file())
        if not found:
            raise DataError(f"{path} has no images ({', '.join(sorted(_SUFFIXES))}); name files, or another folder")
        yield from found


def _as_text(model: Model, file: Path, outputs: Any, top: int) -> str:
    if not model.classifies:
        return f"{file}: an embedding of {len(outputs)} values (--json prints them)"
    return f"{file}: " + ", ".join(f"{label.name} {label.score:.4f}" for label in model.labels(outputs, top=top))


def _as_json(model: Model, file: Path, outputs: Any, top: int) -> str:
    if not model.classifies:
        return json_.dumps({"file": str(file), "embedding": outputs.tolist()})
    return json_.dumps({"file": str(file), "labels": [asdict(label) for label in model.labels(outputs, top=top)]})
