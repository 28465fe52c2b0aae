"""Where the latencies lie: a density for each candidate, its percentiles marked, one below the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgemim.report.drawing import INK, MUTED, PAGE, chart
from edgemim.report.look import Look
from edgemim.report.markup import Html
from edgemim.report.pareto import log_axis
from edgemim.report.source import Array
from edgemim.runtime.latency.protocol import LEAST_RUNS

_POINTS = 160
_BEYOND = 0.995
_HEIGHT = 0.62


def distribution(looks: Sequence[Look], samples: Mapping[str, Array]) -> Html | None:
    """The chart; None without samples."""
    times = {look: samples[f"{look.key}.ns"] / 1e6 for look in looks if len(samples.get(f"{look.key}.ns", ())) > 1}
    if not times:
        return None
    low = min(float(values.min()) for values in times.values())
    high = max(float(np.quantile(values, _BEYOND)) for values in times.values())
    beyond = sum(int((values > high * 1.05).sum()) for values in times.values())
    shown = list(times)

    def draw(figure: Any, narrow: bool) -> None:
        axes = figure.add_subplot()
        for place, look in enumerate(reversed(shown)):
            _ridge(axes, times[look], look, place, (low, high * 1.05))
        names = [f"{look.number}" if narrow else f"{look.number}  {look.short}" for look in reversed(shown)]
        axes.set_yticks(range(len(shown)), names)
        axes.tick_params(axis="y", labelcolor=INK, pad=8)
        axes.grid(visible=False, axis="y")
        axes.set_ylim(-0.35, len(shown) - 1 + _HEIGHT + 0.25)
        axes.set_xlim(low * 0.98, high * 1.05)
        axes.set_xlabel("latency of a run, ms (log)")
        log_axis(axes)

    says = "Latency of the runs. " + " ".join(
        f"{look.name}: half within {np.median(values):.3g} ms, 90 % within {np.quantile(values, 0.9):.3g} ms, "
        f"the slowest of {len(values):,} took {values.max():.3g} ms."
        for look, values in times.items()
    )
    more = f" {beyond:,} of {sum(map(len, times.values())):,} runs lie further right." if beyond else ""
    caption = (
        "The hill shows how often a latency occurred; marked are p50 (point), p90 and p99 (strokes; only of runs "
        f"enough to know them).{more}"
    )
    return chart("distribution", draw, (70 + 52 * len(shown), 70 + 46 * len(shown)), says=says, caption=caption)


def _ridge(axes: Any, values: Array, look: Look, place: int, limits: tuple[float, float]) -> None:
    centres, share = _density(values, limits)
    axes.fill_between(centres, place, place + _HEIGHT * share, color=look.colour, alpha=0.3, linewidth=0)
    axes.plot(centres, place + _HEIGHT * share, color=look.colour, linewidth=1.2)
    axes.plot([values.min(), min(float(values.max()), limits[1])], [place, place], color=look.colour, linewidth=1)
    for percent, least in LEAST_RUNS.items():
        if len(values) < least:
            continue  # of a tail that nobody saw there is no stroke
        axes.plot(
            [np.quantile(values, percent / 100)],
            [place],
            marker="|",
            markersize=13,
            markeredgewidth=1.8,
            color=look.colour,
        )
    axes.plot(
        [np.median(values)],
        [place],
        marker=look.marker,
        markersize=8,
        color=look.colour,
        markeredgecolor=PAGE,
        zorder=4,
    )
    axes.axhline(place, color=MUTED, linewidth=0.3, zorder=0)


def _density(values: Array, limits: tuple[float, float]) -> tuple[Array, Array]:
    """A smoothed histogram of the logarithms; its highest point is 1."""
    edges = np.linspace(np.log(limits[0] * 0.98), np.log(limits[1]), _POINTS + 1)
    counts = np.histogram(np.log(values), edges)[0].astype(float)
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / 1.6) ** 2)
    smooth = np.convolve(counts, kernel / kernel.sum(), mode="same")
    return np.exp((edges[:-1] + edges[1:]) / 2), smooth / max(smooth.max(), 1e-12)
