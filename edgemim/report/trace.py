"""How latency went over the measurement, with clocks, temperatures and other processes' load below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgemim.report.drawing import INK, SERIES, chart
from edgemim.report.look import Look
from edgemim.report.markup import Html
from edgemim.report.source import Array

_ENVIRONMENT = "environment."
# Names of sensors to the panel that they are drawn in.
_PANELS = (
    ("clock, MHz", ("cpu_mhz", "gpu_mhz")),
    ("temperature, °C", ("temp.",)),
    ("share of the CPUs taken", ("others_cpu", "steal")),
)
_NAMES = {"cpu_mhz": "CPU", "gpu_mhz": "GPU", "others_cpu": "by other processes", "steal": "by the hypervisor"}
# Readings are half a second apart: the nearest before and after belong to the picture.
_MARGIN_NS = 600_000_000
_SMALL = {"fontsize": 10, "labelcolor": INK, "borderpad": 0, "handlelength": 1.8, "columnspacing": 1.2}


def trace(looks: Sequence[Look], samples: Mapping[str, Array]) -> Html | None:
    """The chart; None without samples. Samples without times are drawn by their rounds."""
    lines = {look: line for look in looks if (line := _medians(look, samples)) is not None}
    if not lines:
        return None
    timed = any(f"{look.key}.start_ns" in samples for look in lines)
    panels = _panels(samples) if timed else []

    def draw(figure: Any, narrow: bool) -> None:
        ratios = [3.2, *(1.2 for _ in panels)]
        grid = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": ratios})[:, 0]
        for look, (xs, ys) in lines.items():
            grid[0].plot(
                xs, ys, color=look.colour, linestyle=look.dash, marker=look.marker, markersize=3.5, linewidth=1.3
            )
        _number_ends(grid[0], lines)
        grid[0].set_title("median latency, ms")
        for axes, (title, curves) in zip(grid[1:], panels, strict=True):
            _panel(axes, title, curves, narrow=narrow)
        grid[-1].set_xlabel("seconds since the first run" if timed else "round")

    says = "Median latency over time. " + " ".join(
        f"{look.name}: between {np.min(ys):.3g} and {np.max(ys):.3g} ms." for look, (_, ys) in lines.items()
    )
    says += "".join(
        f" {name} ({title}): {np.nanmin(values):.4g} to {np.nanmax(values):.4g}."
        for title, curves in panels
        for name, (_, values) in curves.items()
    )
    caption = "The median of every turn of each candidate; a level line is a steady machine."
    heights = (300 + 96 * len(panels), 280 + 96 * len(panels))
    return chart("trace", draw, heights, says=says, caption=caption)


def _medians(look: Look, samples: Mapping[str, Array]) -> tuple[Array, Array] | None:
    """When, and the median latency in ms, of every round."""
    values, rounds = samples.get(f"{look.key}.ns"), samples.get(f"{look.key}.round")
    if values is None or rounds is None or not len(values):
        return None
    starts = samples.get(f"{look.key}.start_ns")
    times = rounds.astype(float) if starts is None else (starts - _origin(samples)) / 1e9
    parts = [rounds == number for number in np.unique(rounds)]
    return np.array([times[part].mean() for part in parts]), np.array([np.median(values[part]) / 1e6 for part in parts])


def _origin(samples: Mapping[str, Array]) -> int:
    """When the first timed run of any candidate began."""
    return min(int(array.min()) for name, array in samples.items() if _is_start(name, array))


def _is_start(name: str, array: Array) -> bool:
    return name.endswith(".start_ns") and not name.startswith(_ENVIRONMENT) and len(array) > 0


def _panels(samples: Mapping[str, Array]) -> list[tuple[str, dict[str, tuple[Array, Array]]]]:
    """Per panel its title and, by sensor, times in seconds and values, while the candidates were timed."""
    starts = [array for name, array in samples.items() if _is_start(name, array)]
    times = samples.get(f"{_ENVIRONMENT}start_ns")
    if times is None or not starts:
        return []
    inside = (times >= min(map(np.min, starts)) - _MARGIN_NS) & (times <= max(map(np.max, starts)) + _MARGIN_NS)
    if inside.sum() < 2:
        return []
    seconds = (times[inside] - _origin(samples)) / 1e9
    found = []
    for title, names in _PANELS:
        curves = {}
        for key, values in samples.items():
            sensor = key.removeprefix(_ENVIRONMENT)
            if key == sensor or not sensor.startswith(names) or values.shape != times.shape:
                continue
            if np.isfinite(values[inside]).any():
                curves[_NAMES.get(sensor, sensor.removeprefix("temp."))] = (seconds, values[inside])
        if curves:
            found.append((title, curves))
    return found


def _panel(axes: Any, title: str, curves: Mapping[str, tuple[Array, Array]], *, narrow: bool) -> None:
    axes.set_title(title if not narrow or len(curves) == 1 else title.split(",")[0].split(" of ")[0])
    for number, (name, (xs, ys)) in enumerate(curves.items()):
        colour = SERIES[number % len(SERIES)]
        axes.plot(xs, ys, color=colour, linewidth=1.3, linestyle=("-", "--", ":", "-.")[number % 4], label=name)
    if len(curves) > 1:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 0.96), frameon=False, ncols=2 if narrow else 6, **_SMALL)


def _number_ends(axes: Any, lines: Mapping[Look, tuple[Array, Array]]) -> None:
    """The candidates' numbers at the right ends of their lines, moved apart where they would meet."""
    low, high = axes.get_ylim()
    gap, last = (high - low) * 0.075, -np.inf
    right = max(float(xs.max()) for xs, _ in lines.values())
    for look, (_, ys) in sorted(lines.items(), key=lambda item: float(item[1][1][-1])):
        last = max(float(ys[-1]), last + gap)
        axes.annotate(
            str(look.number),
            (right, last),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontweight="bold" if look.chosen else "normal",
            annotation_clip=False,
        )
