"""Numbers and sentences as every rendering of a report shows them, and a table in markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgemim.runtime.accuracy.drop import TOLD_APART
from edgemim.runtime.report.unseen import unseen

Row = Mapping[str, Any]


def number(value: float | None, digits: int) -> str:
    """With so many digits after the point; a dash for what was not measured."""
    return "-" if value is None else f"{value:.{digits}f}"


def with_error(value: float | None, error: float | None) -> str:
    """`0.9120 ± 0.0063`."""
    return "-" if value is None else f"{value:.4f} ± {error or 0.0:.4f}"


def between(low: float | None, high: float | None, digits: int) -> str:
    """`-0.0010 to 0.0040`."""
    return "-" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"


def p_value(value: float | None) -> str:
    """`0.042`, or `< 0.001`."""
    return "-" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def changed(flips: Mapping[str, int] | None) -> str:
    """Images that got wrong, got right, and got another wrong answer: `3 / 1 / 0`."""
    return "-" if flips is None else " / ".join(str(flips[key]) for key in ("to_wrong", "to_right", "other"))


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def label(row: Row) -> str:
    """`int8-linear on openvino`, or as an entry of a comparison is called."""
    return str(row.get("label") or f"{row['name']} on {row['backend']}")


def state(row: Row) -> str:
    """How a candidate of a check came out."""
    if row["disqualified"] is not None:
        return f"disqualified: {row['disqualified']}"
    if row["reference_only"]:
        return "reference only, not timed"
    return "passes" if row["passed"] else "misses a gate"


def too_few_images(rows: Iterable[Row]) -> list[str]:
    """A sentence on the candidates whose drop the images cannot tell, without a full stop; or none.

    What is to be told is the limit of their gate on the drop, or 0.5 points where there is none above 0.
    """
    rows = list(rows)
    limits = [gate["limit"] for row in rows for gate in row.get("gates", ()) if gate["name"] == "top1.max_drop"]
    wanted = limits[0] if limits and limits[0] > 0 else TOLD_APART
    resolutions = [((row.get("accuracy") or {}).get("resolution"), row) for row in rows]
    unclear = [row for resolution, row in resolutions if resolution is not None and resolution > wanted]
    if not unclear:
        return []
    known = ", ".join(f"± {100 * row['accuracy']['resolution']:.1f} ({label(row)})" for row in unclear)
    images = unclear[0]["accuracy"]["n"]
    return [
        f"not enough images to tell {100 * wanted:g} points of top-1: {images:,} leave what was lost uncertain by "
        f"{known} points"
    ]


def why_not(rows: Iterable[Row], parts: Sequence[str]) -> list[str]:
    """Why numbers of these parts (`power`, `memory`, ...) are missing, each reason once, without a full stop."""
    rows = list(rows)
    reasons = [(row.get(part) or {}).get("reason") for row in rows for part in parts]
    device = dict.fromkeys((row.get(part) or {}).get("device_reason") for row in rows for part in parts)
    told = "; ".join(reason for reason in device if reason)
    return [
        *dict.fromkeys(reason for reason in reasons if reason),
        *([f"memory of the device: {told}"] if told else []),
    ]


def doubts(report: Mapping[str, Any]) -> list[str]:
    """What speaks against a report's numbers, each once: caveats, the machine's marks, what nobody saw, few images."""
    marks = (report.get("environment") or {}).get("marks") or []
    rows = report.get("candidates") or (report["entries"] if report["kind"] == "compare" else [])
    return list(dict.fromkeys([*report.get("caveats", []), *marks, *unseen(report), *too_few_images(rows)]))


def any_has(rows: Iterable[Row], part: str, key: str) -> bool:
    """Whether any row has a value under `part`, `key`: a column without one is left out."""
    return any((row.get(part) or {}).get(key) is not None for row in rows)


def facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of a flat mapping as cells."""
    return [(key, _fact(value)) for key, value in values.items()]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in markdown; a `|` in a cell is escaped."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def paragraphs(parts: Iterable[str]) -> str:
    """The parts that are not empty, a blank line between them."""
    return "\n\n".join(part for part in parts if part) + "\n"


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_fact(item)}" for key, item in value.items() if item is not None) or "-"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
