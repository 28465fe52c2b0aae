"""A table with a row for each candidate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgemim.report.look import Look, named
from edgemim.report.markup import Column, Html, table
from edgemim.runtime.report.cells import number


@dataclass(frozen=True, kw_only=True)
class Field:
    """A column: its heading, what stands in it, and whether it is left out where no candidate has a value."""

    name: str
    cell: Callable[[Look], object]
    kind: str = "n"
    optional: bool = False


def candidates_table(shown: Sequence[Look], fields: Sequence[Field], *, caption: str) -> Html:
    """The table; its first column is the candidate."""
    cells = {field: [field.cell(look) for look in shown] for field in fields}
    kept = [field for field in fields if not field.optional or any(_known(cell) for cell in cells[field])]
    columns = [Column(name="candidate", kind=""), *(Column(name=field.name, kind=field.kind) for field in kept)]
    lines = [(_css(look), [named(look), *(cells[field][place] for field in kept)]) for place, look in enumerate(shown)]
    return table(columns, lines, caption=caption)


def value(part: str, key: str, digits: int) -> Callable[[Look], str]:
    """The number under `part`, `key` of a candidate's row."""
    return lambda look: number(part_of(look, part).get(key), digits)


def part_of(look: Look, part: str) -> dict[str, Any]:
    """A part of a candidate's row; empty where it was not measured."""
    return look.row.get(part) or {}


def _known(cell: object) -> bool:
    return cell not in (None, "", "-")


def _css(look: Look) -> str:
    return "chosen" if look.chosen else "out" if look.row["latency"] is None else ""
