"""Charts by matplotlib as SVG that belongs to the page: its colours, its font, its text as text.

Every chart is drawn twice, for a wide page and for a phone, since text that shrinks with its picture cannot be read;
CSS shows one of the two. Colours are drawn as stand-ins and become variables of the page's style.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

from edgemim.report.markup import Html, html, tag

WIDE, NARROW = 976, 358
FONT = 12.5

# What is drawn, and the variable of the page's style that takes its place.
INK, MUTED, LINE, SURFACE, PAGE = "#010101", "#020202", "#030303", "#040404", "#050505"
GOOD, BAD, NOTE = "#060606", "#070707", "#080808"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#b5588e", "#8a6d00", "#3a8fc4", "#4d4d4d")
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    SURFACE: "surface",
    PAGE: "page",
    GOOD: "good",
    BAD: "bad",
    NOTE: "note",
    **{colour: f"s{number}" for number, colour in enumerate(SERIES, start=1)},
}
_SETTINGS = {
    "svg.fonttype": "none",
    "font.size": FONT,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": FONT,
    "axes.titlecolor": MUTED,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelsize": FONT,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": FONT - 1,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": FONT - 1,
    "ytick.left": False,
    "figure.facecolor": "none",
    "lines.linewidth": 1.8,
    "path.simplify": True,
    "path.simplify_threshold": 0.3,
    "hatch.color": LINE,
    "hatch.linewidth": 0.8,
}

Draw = Callable[[Any, bool], None]


def chart(name: str, draw: Draw, heights: tuple[float, float], *, says: str, caption: object = "") -> Html:
    """A figure: the chart at both widths, and its caption.

    Args:
        name: Of the figure within the page, in lower case.
        draw: Called with an empty matplotlib figure, and whether it is the narrow one.
        heights: In CSS pixels, of the wide and of the narrow one.
        says: What a person who sees it would learn, with the numbers: the text that a screen reader reads.
        caption: Shown below.
    """
    pictures = [
        tag("div", _svg(f"{name}-{word}", draw, (width, height), says), class_=word)
        for word, width, height in (("wide", WIDE, heights[0]), ("narrow", NARROW, heights[1]))
    ]
    return tag("figure", *pictures, tag("figcaption", caption) if caption else Html(""), id=f"chart-{name}")


def _svg(name: str, draw: Draw, size: tuple[float, float], says: str) -> Html:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        draw(figure, name.endswith("narrow"))
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _adopt(stream.getvalue(), name, size, says)


def _adopt(text: str, name: str, size: tuple[float, float], says: str) -> Html:
    """An SVG file as an element of the page."""
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    # Ids hold within the whole page, and the groups' ids are of no use.
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r"font: (\w+ )?([\d.]+)px [^;\"]*", _font, body)  # before matplotlib 3.10; since then:
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r'="[^"]*"', _shorter, body)
    body = re.sub(r"#[0-9a-f]{6}\b", _variable, body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    label = html(says)
    box = f"0 0 {size[0]:g} {size[1]:g}"
    return Html(f'<svg viewBox="{box}" role="img" aria-label="{label}" focusable="false">{body}</svg>')


def _font(found: re.Match[str]) -> str:
    """Size and weight stay, the family is the page's."""
    weight, size = found.groups()
    return f"font-size: {size}px" + (f"; font-weight: {weight.strip()}" if weight else "")


def _shorter(found: re.Match[str]) -> str:
    """Places to a hundredth of a pixel."""
    return re.sub(r"(\d\.\d\d)\d+", r"\1", found.group())


def _variable(found: re.Match[str]) -> str:
    colour = found.group()
    return f"var(--{_VARIABLES[colour]})" if colour in _VARIABLES else colour
