"""The Pareto front: how good against how fast, with the budgets drawn in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgemim.report.drawing import BAD, INK, LINE, MUTED, PAGE, chart
from edgemim.report.look import Look
from edgemim.report.markup import Html

# What the vertical axis can be, the best first: key, its name, the gates that are a least value of it.
_MEASURES = (
    ("top1", "top-1", ("top1.min",)),
    ("knn_agreement", "k-NN agreement with fp32", ("knn_agreement.min",)),
    ("agreement", "agreement with fp32", ("agreement.min",)),
    ("cosine", "cosine with fp32", ("cosine.min", "embedding_cosine.min")),
)
_LATENCIES = ("p50_ms", "p90_ms", "p99_ms")
_NAMES = {"p50_ms": "p50", "p90_ms": "p90", "p99_ms": "p99", "p90_estimate_ms": "p90 estimate"}
_ROOM = 0.08
# Highest over lowest below which a logarithmic axis looks like any other.
_SHORT = 4


@dataclass(frozen=True, kw_only=True)
class Point:
    """A candidate: median latency, the tail that has a budget, what the vertical axis shows and its standard error.

    `images` says which images that was measured on: only points of the same ones compare.
    """

    look: Look
    p50: float
    tail: float | None
    value: float
    error: float | None
    images: str | None = None


def measure_of(looks: Sequence[Look]) -> tuple[str, str, tuple[str, ...]] | None:
    """The best of the measures that any candidate has; None without evaluation images."""
    for measure in _MEASURES:
        if any((look.row["accuracy"] or {}).get(measure[0]) is not None for look in looks):
            return measure
    return None


def pareto(looks: Sequence[Look], report: Mapping[str, Any]) -> Html | None:
    """The chart; None if nothing was both timed and judged."""
    measure = measure_of(looks)
    if measure is None:
        return None
    key, words, gates = measure
    limits = {name: float(entry["limit"]) for name, entry in (report.get("gates") or {}).items()}
    tail = next((name for name in (*_LATENCIES[::-1], "p90_estimate_ms") if name in limits and name != "p50_ms"), None)
    points = _points(looks, key, tail, report)
    if not points:
        return None
    groups = [[p for p in points if p.images == images] for images in dict.fromkeys(p.images for p in points)]
    fronts = [front_of(group) for group in groups]
    front = [point for one in fronts for point in one]
    least = _least(limits, gates, report, key)
    names = ", ".join(f"{p.look.name} (p50 {p.p50:.3g} ms, {words} {p.value:.4g})" for p in front)
    says = f"{words} against median latency of {len(points)} candidates. On the front, fastest first: {names}."

    def draw(figure: Any, narrow: bool) -> None:
        axes = figure.add_subplot(xscale="log")
        _draw_points(axes, points, fronts)
        axes.set_xlabel("latency, ms (log)")
        axes.set_title(words, pad=22)  # above the names of the budgets
        _budgets(axes, limits, tail, least)
        log_axis(axes)

    budget = " Dashed: the budgets." if least is not None or set(limits) & set(_NAMES) else ""
    whisker = f" The thin line to the right of a point ends at its {_NAMES[tail]}." if tail else ""
    error = " The upright line is one standard error." if any(p.error for p in points) else ""
    apart = " Each bundle's images are its own: lines join what was measured on the same." if len(groups) > 1 else ""
    better = f"Up and to the left is better; the grey line joins those that nothing beats.{apart}"
    caption = f"{better}{budget}{whisker}{error}"
    return chart("pareto", draw, (440, 360), says=says, caption=caption)


def front_of(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats in both, fastest first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.p50, -p.value)):
        if not kept or point.value > kept[-1].value:
            kept.append(point)
    return kept


def log_axis(axes: Any) -> None:
    """Make the horizontal axis logarithmic, with plain numbers at round places."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(round_places(low, high)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def round_places(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, 0 < low < high, fit for a logarithmic axis."""
    from matplotlib.ticker import MaxNLocator

    if high / low < _SHORT:
        return [
            place for place in MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= place <= high
        ]
    steps = (1, 1.5, 2, 3, 5, 7) if high / low < 20 else (1, 2, 5) if high / low < 1000 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [place for d in decades for s in steps if low <= (place := float(f"{s}e{d}")) <= high]


def _points(looks: Sequence[Look], key: str, tail: str | None, report: Mapping[str, Any]) -> list[Point]:
    images = {bundle["name"]: (bundle.get("evaluation") or {}).get("sha256") for bundle in report.get("bundles") or []}
    found = []
    for look in looks:
        latency, accuracy = look.row["latency"], look.row["accuracy"] or {}
        if latency is not None and accuracy.get(key) is not None:
            value, error = float(accuracy[key]), accuracy.get(f"{key}_se")
            limit = None if tail is None else latency.get(tail)
            of = images.get(look.row["name"].rpartition(":")[0])
            found.append(Point(look=look, p50=latency["p50_ms"], tail=limit, value=value, error=error, images=of))
    return found


def _least(limits: Mapping[str, float], gates: Sequence[str], report: Mapping[str, Any], key: str) -> float | None:
    """The least value that the gates allow."""
    found = [limits[gate] for gate in gates if gate in limits]
    if key == "top1" and "top1.max_drop" in limits:
        reference = [row for row in report["candidates"] if f"{row['name']} on {row['backend']}" == report["reference"]]
        found += [row["accuracy"]["top1"] - limits["top1.max_drop"] for row in reference if row["accuracy"]]
    return max(found, default=None)


def _draw_points(axes: Any, points: Sequence[Point], fronts: Sequence[Sequence[Point]]) -> None:
    for front in fronts:
        axes.plot([p.p50 for p in front], [p.value for p in front], color=LINE, linewidth=2.5, zorder=1)
    for point in points:
        look, x, y = point.look, point.p50, point.value
        if point.tail is not None:
            axes.plot([x, point.tail], [y, y], color=look.colour, linewidth=1, zorder=2)
            axes.plot([point.tail], [y], color=look.colour, marker="|", markersize=8, zorder=2)
        if point.error:
            axes.plot([x, x], [y - point.error, y + point.error], color=look.colour, linewidth=1, alpha=0.55, zorder=2)
        if look.chosen:
            axes.plot([x], [y], "o", markersize=19, markerfacecolor="none", markeredgecolor=INK, zorder=3)
        axes.plot(
            [x],
            [y],
            marker=look.marker,
            markersize=9,
            color=look.colour,
            markeredgecolor=PAGE,
            markeredgewidth=1.2,
            linestyle="none",
            zorder=4,
        )
    _number_them(axes, points)
    axes.margins(x=_ROOM, y=0.14)


def _number_them(axes: Any, points: Sequence[Point]) -> None:
    """The candidates' numbers, above or below their points, away from the nearest neighbour's."""
    for point in points:
        near = [p for p in points if p is not point and abs(p.p50 / point.p50 - 1) < 0.06]
        below = any(
            p.value >= point.value and (p.value, p.look.number) > (point.value, point.look.number) for p in near
        )
        weight = "bold" if point.look.chosen else "normal"
        axes.annotate(
            str(point.look.number),
            (point.p50, point.value),
            xytext=(0, -12 if below else 12),
            textcoords="offset points",
            ha="center",
            va="top" if below else "bottom",
            fontweight=weight,
            color=INK,
            zorder=5,
        )


def _budgets(axes: Any, limits: Mapping[str, float], tail: str | None, least: float | None) -> None:
    for name in ("p50_ms", tail):
        if name in limits and name is not None:
            _budget_line(axes, limits[name], f"{_NAMES[name]} {limits[name]:g} ms")
    if least is not None:
        axes.axhline(least, color=BAD, linewidth=1.4, linestyle=(0, (5, 3)), zorder=1)
        axes.annotate(
            f"least\n{least:.4g}",
            (1, least),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=BAD,
        )


def _budget_line(axes: Any, limit: float, text: str) -> None:
    """An upright line at the budget; where it is far beyond every point, only a note that it is."""
    low, high = axes.get_xlim()
    if limit > 4 * high:
        axes.annotate(
            f"budget: {text}, beyond \N{RIGHTWARDS ARROW}",
            (1, 1),
            xycoords="axes fraction",
            xytext=(-2, 4),
            textcoords="offset points",
            ha="right",
            color=MUTED,
        )
        return
    axes.axvline(limit, color=BAD, linewidth=1.4, linestyle=(0, (5, 3)), zorder=1)
    axes.set_xlim(min(low, limit * (1 - _ROOM)), max(high, limit * (1 + _ROOM)))
    axes.annotate(
        text,
        (limit, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 5),
        textcoords="offset points",
        ha="right",
        color=BAD,
    )
