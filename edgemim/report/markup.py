"""HTML from plain values: everything that comes from outside is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

GOOD, BAD = "\N{CHECK MARK}", "\N{MULTIPLICATION X}"


class Html(str):
    """Text that is HTML already; any other text is escaped on its way into the page."""

    __slots__ = ()


def html(value: object) -> Html:
    """A value as HTML; None is a dash that a screen reader reads as `not measured`."""
    if isinstance(value, Html):
        return value
    if value is None or value == "-":
        return Html('<span class="muted" aria-label="not measured" role="img">\N{EN DASH}</span>')
    return Html(escape(str(value)))


def tag(name: str, *content: object, **attributes: str | None) -> Html:
    """An element; `class_` is the attribute `class`, `_` in other names is `-`, and one of None is left out."""
    found = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    words = "".join(f' {key}="{escape(value)}"' for key, value in found.items())
    return Html(f"<{name}{words}>{''.join(map(html, content))}</{name}>")


def join(parts: Iterable[object]) -> Html:
    """Elements one after the other."""
    return Html("\n".join(map(html, parts)))


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table: its heading, and how its cells stand (`n`: numbers, to the right; `free`: running text)."""

    name: str
    kind: str = "n"


def table(columns: Sequence[Column], rows: Iterable[tuple[str, Sequence[object]]], *, caption: str) -> Html:
    """A table that scrolls inside its own box; the first cell of a row is its heading.

    Args:
        rows: A CSS class, or none, and the cells.
        caption: What it shows, in words.
    """
    head = tag("tr", *(tag("th", c.name, scope="col", class_=_kind(c)) for c in columns))
    body = [tag("tr", *_cells(columns, cells), class_=name or None) for name, cells in rows]
    inner = tag("table", tag("caption", tag("span", caption)), tag("thead", head), tag("tbody", join(body)))
    return tag("div", inner, class_="scroll", tabindex="0", role="group", aria_label=f"table: {caption}")


def facts_table(values: Iterable[tuple[str, object]], *, caption: str) -> Html:
    """Names and values in two columns."""
    columns = (Column(name="fact", kind=""), Column(name="value", kind="free"))
    return table(columns, (("", pair) for pair in values), caption=caption)


def tile(name: str, value: str | None, unit: str = "", how: str = "") -> Html:
    """A number that stands out: what it is, its value, and how it was found."""
    shown = [html(value), tag("small", f"\N{NO-BREAK SPACE}{unit}") if unit and value is not None else Html("")]
    below = tag("span", how, class_="how") if how else Html("")
    return tag("div", tag("dt", name), tag("dd", *shown, below))


def good(text: str) -> Html:
    """A word of success, told by its sign as well as by its colour."""
    return _tag(text, GOOD, "good")


def bad(text: str) -> Html:
    """A word of failure, told by its sign as well as by its colour."""
    return _tag(text, BAD, "bad")


def plain(text: str) -> Html:
    """A word that is neither."""
    return tag("span", text, class_="tag plain")


def details(summary: str, content: Html) -> Html:
    """What only some readers want: folded."""
    return tag("details", tag("summary", summary), content)


def marks(texts: Iterable[str]) -> Html:
    """Sentences of doubt."""
    return tag("ul", *(tag("li", text) for text in texts), class_="marks")


def section(name: str, title: str, *content: object) -> Html:
    """A part of the page under its heading."""
    heading = tag("h2", title, id=f"{name}-title")
    return tag("section", heading, join(content), id=name, aria_labelledby=f"{name}-title")


def definition(values: Mapping[str, Any]) -> Html:
    """`name value` pairs in one line of text."""
    return html(", ".join(f"{name} {value}" for name, value in values.items() if value is not None))


def _tag(text: str, sign: str, kind: str) -> Html:
    return tag("span", tag("span", sign, aria_hidden="true"), html(text), class_=f"tag {kind}")


def _kind(column: Column) -> str | None:
    return column.kind if column.kind == "n" else None


def _cells(columns: Sequence[Column], cells: Sequence[object]) -> list[Html]:
    first, *others = zip(columns, cells, strict=True)
    return [
        tag("th", first[1], scope="row", class_=_kind(first[0])),
        *(tag("td", cell, class_=column.kind or None) for column, cell in others),
    ]
