"""The parity ladder on the command line: climb it, and print it as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgemim.artifact import Artifact
from edgemim.commands._output import progress_bar, remark, show
from edgemim.errors import MissingDependencyError

# One mark per this many dB, so that a healthy INT8 block has ten.
_DB_PER_MARK = 4
_MOST_MARKS = 40
_RESCALED = " scaled per channel, undone later"


def climb_ladder(artifact: Artifact, *, against: Path | None, every_module: bool = False) -> dict[str, Any]:
    """The ladder of an onnx artifact or a bundle as plain values.

    Raises:
        MissingDependencyError: A package of the extra `export` is not installed.
    """
    try:
        from edgemim.export.ladder.artifact import climb_artifact
        from edgemim.export.ladder.words import ladder_to_dict
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in ("", "edgemim"):
            raise
        raise MissingDependencyError("the parity ladder", missing, "export") from error
    with progress_bar("parity") as progress:
        return ladder_to_dict(climb_artifact(artifact, against=against, every_module=every_module, progress=progress))


def tell_ladder(ladder: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the ladder as text, unless the result is printed as JSON; then what to look at first, on stderr."""
    if not as_json:
        show("\n".join(_lines(ladder)))
    remark(ladder["worst"])


def _lines(ladder: Mapping[str, Any]) -> Iterator[str]:
    """A table and a sentence per step."""
    for note in ladder["notes"]:
        yield f"note: {note}"
    for step in ladder["steps"]:
        yield f"parity of {step['name']} with {step['against']}, {ladder['images']} images"
        output = [] if step["output"] is None else [{"name": "output", **step["output"]}]
        marks = dict.fromkeys(step["rescaled"], _RESCALED) | {step["first_block"]: "<", step["culprit"]: "<"}
        yield from _table([*step["blocks"], *output], marks)
        if step["modules"]:
            yield "  inside:"
            yield from _table(step["modules"], marks)
        yield f"  {step['verdict']}"


def _table(rows: list[dict[str, Any]], marks: Mapping[str | None, str]) -> Iterator[str]:
    width = max((len(row["name"]) for row in rows), default=0)
    if rows:
        yield f"  {'':<{width}}  {'SNR dB':>6}  {'cosine':>8}  {'worst':>8}  {'rel err':>8}  {'max abs':>8}"
    for row in rows:
        mark = marks.get(row["name"], "")
        yield f"  {row['name']:<{width}}  {_numbers(row)}  {_bar(row, mark)}{mark}".rstrip()


def _numbers(row: Mapping[str, Any]) -> str:
    if not row["finite"]:
        return f"{'not finite':>46}"
    if not row["max_abs"]:
        return f"{'no difference':>46}"
    worst, error = f"{row['cosine_worst']:>8.5f}", f"{row['relative_error']:>8.1e}"
    return f"{row['snr_db']:>6.1f}  {row['cosine']:>8.5f}  {worst}  {error}  {row['max_abs']:>8.1e}"


def _bar(row: Mapping[str, Any], mark: str) -> str:
    decibels = row["aligned_db" if mark == _RESCALED else "snr_db"]
    return "" if decibels is None else "#" * max(0, min(_MOST_MARKS, round(decibels / _DB_PER_MARK)))
