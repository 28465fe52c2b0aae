"""Differences with their intervals, one below the other, against the 1 % that does not matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgemim.report.drawing import INK, LINE, MUTED, PAGE, SERIES, SURFACE, chart
from edgemim.report.markup import Html
from edgemim.runtime.report.cells import Row
from edgemim.runtime.report.compare_page import difference

_BAND = 0.01
_ROOM = {"wide": 60, "narrow": 40}
_COLOURS = {"slower": SERIES[1], "faster": SERIES[2]}
_MARKERS = {"slower": ">", "faster": "<", "none": "o", "unclear": "D"}


def forest(pairs: Sequence[Row]) -> Html:
    """The ratios of a comparison: time of a over time of b."""

    def draw(figure: Any, narrow: bool) -> None:
        axes = figure.add_subplot()
        axes.axvspan(1 - _BAND, 1 + _BAND, color=SURFACE, zorder=0)
        axes.axvline(1, color=MUTED, linewidth=1, zorder=1)
        for place, pair in enumerate(reversed(pairs)):
            colour = _COLOURS.get(pair["difference"], MUTED)
            axes.plot([pair["low"], pair["high"]], [place, place], color=colour, linewidth=2.4, solid_capstyle="round")
            axes.plot(
                [pair["ratio"]],
                [place],
                marker=_MARKERS[pair["difference"]],
                markersize=9,
                color=colour,
                markeredgecolor=PAGE,
                zorder=3,
            )
            axes.annotate(
                _names(pair, narrow=narrow),
                (0, place),
                xycoords=("axes fraction", "data"),
                xytext=(0, 9),
                textcoords="offset points",
                color=INK,
                bbox={"facecolor": PAGE, "edgecolor": "none", "pad": 1},
            )
        axes.set_yticks([])
        axes.set_ylim(-0.6, len(pairs) - 0.25)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x", color=LINE)
        axes.set_xlabel("time of the first / time of the second")

    says = "Ratios of latencies. " + " ".join(
        f"{pair['a']} takes {pair['ratio']:.3f} times as long as {pair['b']}, interval {pair['low']:.3f} to "
        f"{pair['high']:.3f}: {difference(pair)}."
        for pair in pairs
    )
    caption = "The line is the interval; the grey band is a difference of less than 1 %, which does not count."
    return chart("ratios", draw, (80 + 56 * len(pairs), 80 + 72 * len(pairs)), says=says, caption=caption)


def _names(pair: Row, *, narrow: bool) -> str:
    """Both names, as far as there is room for them."""
    most = _ROOM["narrow" if narrow else "wide"]
    a, b = (_cut(pair[side], most) for side in ("a", "b"))
    return f"{a}\n/ {b}" if narrow else f"{a} / {b}"


def _cut(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
