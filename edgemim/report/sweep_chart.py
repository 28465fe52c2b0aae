"""Many models in one picture: how good, or how large where nobody knows how good, against how fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemim.report.drawing import BAD, INK, LINE, PAGE, SERIES, chart
from edgemim.report.markup import Html
from edgemim.report.pareto import log_axis
from edgemim.runtime.report.sweep_page import latency_of

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_MEASURES = (("top1", "top-1"), ("agreement", "agreement with its own fp32"), ("cosine", "cosine with its own fp32"))


def sweep_chart(report: Mapping[str, Any]) -> Html | None:
    """The chart; None if nothing was timed."""
    entries = [(index, entry) for index, entry in enumerate(report["entries"]) if latency_of(entry)]
    if not entries:
        return None
    key, words = next(
        (
            (key, words)
            for key, words in _MEASURES
            if any((e["accuracy"] or {}).get(key) is not None for _, e in entries)
        ),
        ("parameters", "parameters, millions"),
    )
    points = [(i, e, float(latency_of(e)["p50_ms"]), y) for i, e in entries if (y := _height(e, key)) is not None]
    precisions = list(dict.fromkeys(entry["precision"] for _, entry in entries))
    limit = report["budget"].get("max_ms")
    fronts = _fronts(points, report["front"])

    def draw(figure: Any, narrow: bool) -> None:
        axes = figure.add_subplot(xscale="log")
        for front in fronts:
            axes.plot(*zip(*front, strict=True), color=LINE, linewidth=2.5, zorder=1)
        for index, entry, x, y in points:
            number = precisions.index(entry["precision"])
            axes.plot(
                [x],
                [y],
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=9 if index in report["front"] else 7,
                color=SERIES[number % len(SERIES)],
                alpha=1 if index in report["front"] else 0.55,
                markeredgecolor=PAGE,
                linestyle="none",
            )
            axes.annotate(
                str(index + 1),
                (x, y),
                xytext=(0, 8),
                textcoords="offset points",
                ha="center",
                fontweight="bold" if index in report["front"] else "normal",
                color=INK,
            )
        for number, precision in enumerate(precisions):
            colour, marker = SERIES[number % len(SERIES)], _MARKERS[number % len(_MARKERS)]
            axes.plot([], [], marker=marker, color=colour, linestyle="none", label=precision, markeredgecolor=PAGE)
        if limit is not None:
            axes.axvline(limit, color=BAD, linewidth=1.4, linestyle=(0, (5, 3)), label=f"budget {limit:g} ms")
        axes.margins(x=0.08, y=0.12)
        axes.set_xlabel("p50, ms (log)")
        axes.set_title(words)
        log_axis(axes)
        figure.legend(loc="outside lower left", frameon=False, ncols=2 if narrow else 6, fontsize=11, labelcolor=INK)

    names = "; ".join(
        f"{e['model']} {e['candidate']}: {x:.3g} ms, {y:.4g}" for i, e, x, y in points if i in report["front"]
    )
    says = f"{words} against median latency of {len(points)} entries. On the front: {names}."
    caption = "Up and to the left is better; the numbers are those of the table."
    if len(fronts) > 1:
        caption += " Grey lines join what compares with each other: a closeness to fp32 is to that of the same model."
    if len(points) < len(entries):
        caption += f" {len(entries) - len(points)} more were timed of which no {words} is known: see the table."
    if key == "parameters":
        caption += " No accuracy is known, so height is the number of parameters: room to learn in, not a promise."
    return chart("front", draw, (480, 420), says=says, caption=caption)


def _fronts(
    points: Sequence[tuple[int, Mapping[str, Any], float, float]], front: Sequence[int]
) -> list[list[tuple[float, float]]]:
    """Places on the front, fastest first, apart for each group of entries that compare with each other."""
    groups: dict[str | None, list[tuple[float, float]]] = {}
    for index, entry, x, y in sorted(points, key=lambda point: point[2]):
        if index in front:
            groups.setdefault(entry.get("group"), []).append((x, y))
    return list(groups.values())


def _height(entry: Mapping[str, Any], key: str) -> float | None:
    if key == "parameters":
        return None if entry["parameters"] is None else entry["parameters"] / 1e6
    value = (entry["accuracy"] or {}).get(key)
    return None if value is None else float(value)
