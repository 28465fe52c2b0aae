"""How each candidate looks in every chart: a number, a colour by precision, a marker and a dash by backend.

The number stands beside its point and in the table, so that colour is never needed to tell which is which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgemim.report.drawing import SERIES
from edgemim.report.markup import Html, html, tag

_MARKERS = ("o", "s", "^", "D", "v", "P")
_LONGEST = 34
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """Of one candidate on one backend.

    Attributes:
        key: Of its arrays in `samples.npz`.
        row: Its entry in the report.
        number: From 1, in the order of the report.
    """

    key: str
    row: Mapping[str, Any]
    number: int
    colour: str
    marker: str
    dash: Any
    chosen: bool

    @property
    def short(self) -> str:
        """The name as a chart has room for it."""
        return self.name if len(self.name) <= _LONGEST else f"{self.name[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"

    @property
    def name(self) -> str:
        """`int8-linear on openvino`."""
        return str(self.row.get("label") or f"{self.row['name']} on {self.row['backend']}")


def looks(report: Mapping[str, Any]) -> list[Look]:
    """One for every candidate of a check or a bench."""
    rows = report["candidates"]
    chosen = (report.get("chosen"), report.get("chosen_backend"))
    found = _looks(rows, [sample_key(row) for row in rows])
    return [
        Look(**{**vars(look), "chosen": (look.row["name"], look.row["backend"]) == chosen and not _spare(look.row)})
        for look in found
    ]


def entry_looks(entries: Sequence[Mapping[str, Any]]) -> list[Look]:
    """One for every entry of a comparison."""
    return _looks(entries, [str(entry["label"]) for entry in entries])


def final_looks(report: Mapping[str, Any]) -> list[Look]:
    """One for every finalist of a sweep; its number is that of its entry."""
    finals = [(index, entry) for index, entry in enumerate(report["entries"]) if entry["side_by_side"]]
    rows = [entry | {"label": _entry_name(entry), "latency": entry["side_by_side"]} for _, entry in finals]
    found = _looks(rows, [_final_key(entry) for _, entry in finals])
    chosen = set(report["front"])
    return [
        Look(**{**vars(look), "number": index + 1, "chosen": index in chosen})
        for look, (index, _) in zip(found, finals, strict=True)
    ]


def sample_key(row: Mapping[str, Any]) -> str:
    """`NAME@BACKEND`."""
    return f"{row['name']}@{row['backend']}"


def badge(look: Look) -> Html:
    """The number in a ring of the candidate's colour."""
    colour = f"--c: var(--s{SERIES.index(look.colour) + 1})"
    return tag("span", look.number, class_="id", style=colour)


def legend(shown: Iterable[Look], *, only_narrow: bool = False) -> Html:
    """Numbers and names; only on a phone where a wide chart names them itself."""
    kind = "legend narrow" if only_narrow else "legend"
    return tag("ul", *(tag("li", badge(look), html(look.name)) for look in shown), class_=kind, role="list")


def named(look: Look) -> Html:
    """Number and name, for the first cell of a row."""
    return tag("span", badge(look), html(f" {look.name}"), class_="named")


def _entry_name(entry: Mapping[str, Any]) -> str:
    height, width = entry["input"]
    size = height if height == width else f"{height}x{width}"
    return f"{entry['model']} at {size}, {entry['candidate']} on {entry['backend']}"


def _final_key(entry: Mapping[str, Any]) -> str:
    """`MODEL-HxW.NAME@BACKEND`."""
    height, width = entry["input"]
    return f"{entry['model']}-{height}x{width}.{entry['candidate']}@{entry['backend']}"


def _looks(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[Look]:
    groups = list(dict.fromkeys(map(_group, rows)))
    backends = list(dict.fromkeys(row["backend"] for row in rows))
    return [
        Look(
            key=key,
            row=row,
            number=number,
            colour=SERIES[groups.index(_group(row)) % len(SERIES)],
            marker=_MARKERS[backends.index(row["backend"]) % len(_MARKERS)],
            dash=_DASHES[backends.index(row["backend"]) % len(_DASHES)],
            chosen=False,
        )
        for number, (row, key) in enumerate(zip(rows, keys, strict=True), start=1)
    ]


def _group(row: Mapping[str, Any]) -> tuple[str, str]:
    """What has a colour of its own: a precision, of each bundle where there are several (`BUNDLE:CANDIDATE`)."""
    name = str(row.get("label") or row["name"])
    return name.rpartition(":")[0], row["precision"]


def _spare(row: Mapping[str, Any]) -> bool:
    return bool(row.get("reference_only"))
