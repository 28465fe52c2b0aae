"""Where precision is lost: parity block by block, and what each layer costs in INT8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemim.report.drawing import BAD, INK, LINE, MUTED, PAGE, SERIES, chart
from edgemim.report.markup import Html

# What is drawn of a block that does not differ at all, or hardly.
_MOST_DB = 100.0
_SHOWN = 14
_MARKERS = ("o", "s", "^", "D", "v", "P")

Step = Mapping[str, Any]


def parity_chart(ladder: Mapping[str, Any]) -> Html | None:
    """Signal to noise of every block, a line per flavour; None if no flavour has blocks that could be compared."""
    steps = [step for step in ladder["steps"] if step["blocks"]]
    if not steps:
        return None
    names = list(dict.fromkeys(row["name"] for step in steps for row in step["blocks"]))
    floors = [step["least_db"] for step in steps if step.get("least_db")]

    def draw(figure: Any, narrow: bool) -> None:
        axes = figure.add_subplot()
        for number, step in enumerate(steps):
            xs = [names.index(row["name"]) for row in step["blocks"]]
            ys = [_decibel(row) for row in step["blocks"]]
            axes.plot(
                xs,
                ys,
                color=SERIES[number % len(SERIES)],
                marker=_MARKERS[number % len(_MARKERS)],
                markeredgecolor=PAGE,
                markersize=7,
                label=f"{step['name']} with {step['against']}",
            )
        if floors:
            axes.axhline(max(floors), color=BAD, linewidth=1.4, linestyle=(0, (5, 3)), label="least that is accepted")
        axes.set_xticks(range(len(names)), [name.replace("blocks.", "") if narrow else name for name in names])
        axes.tick_params(axis="x", rotation=90 if len(names) > 8 else 0)
        axes.set_title("signal to noise, dB")
        axes.set_ylim(0, None)
        columns = 1 if narrow else 3
        figure.legend(loc="outside lower left", frameon=False, ncols=columns, fontsize=11, labelcolor=INK)

    says = "Parity by block. " + " ".join(f"{_sentence(step['verdict'])}" for step in steps)
    caption = (
        f"On {ladder['images']} images. Higher is closer; {_MOST_DB:g} dB and more, up to no difference at all, are "
        f"shown at {_MOST_DB:g}."
    )
    return chart("parity", draw, (340, 340 + 20 * len(steps)), says=says, caption=caption)


def sensitivity_chart(found: Mapping[str, Any]) -> Html:
    """The units whose return to float helps most."""
    total = max(float(found["everything"]["noise"]), 1e-30)
    gains = sorted(
        ((1 - float(unit["disabled"]["noise"]) / total, unit) for unit in found["units"]), key=lambda pair: -pair[0]
    )[:_SHOWN]

    def draw(figure: Any, narrow: bool) -> None:
        axes = figure.add_subplot()
        for place, (gain, _) in enumerate(reversed(gains)):
            axes.plot([0, 100 * gain], [place, place], color=LINE, linewidth=3, solid_capstyle="round")
            axes.plot([100 * gain], [place], marker="o", markersize=8, color=SERIES[0], markeredgecolor=PAGE)
        axes.set_yticks(range(len(gains)), [_short(unit["unit"], narrow) for _, unit in reversed(gains)])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.grid(visible=False, axis="y")
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_xlabel("noise that leaving it in float removes, %")

    first = "; ".join(f"{unit['unit']}: {gain:.0%}" for gain, unit in gains[:5])
    says = f"How much of the noise of INT8 goes if one unit stays in float, most first: {first}."
    caption = (
        f"Placement {found['placement']}, {found['images']} images: the {len(gains)} of {len(found['units'])} units "
        "whose return to float helps most."
    )
    return chart("sensitivity", draw, (70 + 26 * len(gains), 70 + 26 * len(gains)), says=says, caption=caption)


def worst_blocks(steps: Sequence[Step]) -> list[tuple[Step, Mapping[str, Any] | None]]:
    """Each flavour with the block that it follows least."""
    return [(step, min(step["blocks"], key=_decibel, default=None)) for step in steps]


def _decibel(row: Mapping[str, Any]) -> float:
    if not row["finite"] or row["snr_db"] is None:
        return 0.0
    return min(float(row["snr_db"]), _MOST_DB)


def _short(name: str, narrow: bool) -> str:
    return name if not narrow or len(name) <= 22 else f"\N{HORIZONTAL ELLIPSIS}{name[-21:]}"


def _sentence(text: str) -> str:
    return f"{text}."
