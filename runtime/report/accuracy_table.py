"""What a candidate's answers lost against fp32, in a table of markdown; columns without a value are left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgemim.runtime.report.cells import Row, any_has, between, changed, number, p_value, table

Cell = Callable[[Mapping[str, Any]], str]

# The key that must have a value, the heading, and the cell.
COLUMNS: tuple[tuple[str, str, Cell], ...] = (
    ("top5", "top-5", lambda a: number(a.get("top5"), 4)),
    ("top1_drop", "top-1 lost", lambda a: number(a.get("top1_drop"), 4)),
    ("top1_drop_low", "95 % interval", lambda a: between(a.get("top1_drop_low"), a.get("top1_drop_high"), 4)),
    ("flips", "to wrong / to right / other", lambda a: changed(a.get("flips"))),
    ("mcnemar_p", "McNemar p", lambda a: p_value(a.get("mcnemar_p"))),
    ("cosine_worst_1pct", "worst 1 % cosine", lambda a: number(a.get("cosine_worst_1pct"), 5)),
    ("cka", "CKA", lambda a: number(a.get("cka"), 5)),
)
# Without one of these, the table would repeat the table of candidates.
_NEW = ("top5", "flips", "cosine_worst_1pct", "cka")
_NOTES = {
    "top1_drop_low": "The interval is a paired bootstrap over the images.",
    "flips": "Flips: images that {} has right and this has wrong, the reverse, and those wrong in another way.",
    "mcnemar_p": "McNemar p: the chance of so uneven flips if neither were better.",
    "cosine_worst_1pct": "Worst 1 % cosine: the mean of the lowest hundredth of the images.",
    "cka": "CKA: debiased linear centred kernel alignment with the outputs of {}: 1 for the same geometry, 0 for none.",
}


def accuracy_part(rows: Sequence[Row], *, against: str = "fp32") -> list[str]:
    """Heading, table and notes; nothing where there is nothing to add to the table of candidates.

    Args:
        against: What they are compared with, in words.
    """
    judged = [row for row in rows if row["accuracy"] is not None]
    if not any(any_has(judged, "accuracy", key) for key in _NEW):
        return []
    columns = [column for column in COLUMNS if any_has(judged, "accuracy", column[0])]
    head = ("candidate", "backend", *(heading for _, heading, _ in columns))
    lines = [(row["name"], row["backend"], *(cell(row["accuracy"]) for *_, cell in columns)) for row in judged]
    return [f"## Against {against}", table(head, lines), accuracy_notes(rows, against=against)]


def accuracy_notes(rows: Sequence[Row], *, against: str = "fp32") -> str:
    """What the columns mean that there are."""
    return " ".join(note.format(against) for key, note in _NOTES.items() if any_has(rows, "accuracy", key))
