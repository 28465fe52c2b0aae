"""The summary as a picture: top-1 of each row, with intervals where there are seeds enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .intervals import FEWEST_SEEDS

_RANKED, _SINGLE = "#1f5fa8", "#888888"
_ROW_INCHES, _PANEL_INCHES, _WIDTH_INCHES = 0.23, 0.6, 7.0
_CONVNETS = ("convnets, equal updates", "convnets, equal seconds")

Row = Mapping[str, Any]


def draw_top1(summary: Mapping[str, Any], file: Path) -> None:
    """Draw to a PNG: a panel for each list of rows that are held against each other.

    Args:
        summary: As `summarise` makes it.
        file: To write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [(title, rows) for title, rows in _panels(summary).items() if rows]
    lengths = [len(rows) for _, rows in panels]
    figure, all_axes = pyplot.subplots(
        len(panels),
        figsize=(_WIDTH_INCHES, _PANEL_INCHES * (len(panels) + 1) + _ROW_INCHES * sum(lengths)),
        height_ratios=[length + 0.4 for length in lengths],
        squeeze=False,
        layout="constrained",
    )
    for axes, (title, rows) in zip(all_axes[:, 0], panels, strict=True):
        for place, row in enumerate(rows):
            _draw_row(axes, place, row)
        axes.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.set_title(title, fontsize=9, loc="left")
        axes.grid(axis="x", color="#eeeeee")
        axes.set_axisbelow(True)
    _share_limits(all_axes[:, 0], [title for title, _ in panels])
    all_axes[-1, 0].set_xlabel("fine-tuned top-1 on CIFAR-10 (%), mean and 95 % t-interval over seeds")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120, metadata={"Software": ""})
    pyplot.close(figure)


def _panels(summary: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Rows by title, from the lowest place up: the best is uppermost; by name where there are too few seeds."""
    return {
        "ViT, equal updates": _best_last(summary["ranked"]),
        "ViT, equal seconds": _best_last(summary["timed"]),
        _CONVNETS[0]: _best_last(summary["convnets"]),
        _CONVNETS[1]: _best_last(summary["timed_convnets"]),
        "ViT, equal updates, too few seeds for a ranking": sorted(
            summary["not_ranked"], key=lambda row: str(row["name"]), reverse=True
        ),
    }


def _best_last(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: float(row["top1"]["mean"]))


def _draw_row(axes: Any, place: int, row: Row) -> None:
    mean, interval = 100 * row["top1"]["mean"], row["top1"]["interval"]
    if interval is None or len(row["seeds"]) < FEWEST_SEEDS:
        axes.plot(mean, place, "o", markerfacecolor="white", markeredgecolor=_SINGLE)
        return
    low, high = (100 * end for end in interval)
    axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=_RANKED, capsize=3, markersize=5)
    axes.plot([100 * v for v in row["top1"]["values"]], [place] * len(row["seeds"]), "|", color=_RANKED, alpha=0.6)


def _share_limits(all_axes: Sequence[Any], titles: Sequence[str]) -> None:
    """One scale for all panels of ViTs; convnets have theirs, since they are not held against those."""
    for of_convnets in (False, True):
        alike = [axes for axes, title in zip(all_axes, titles, strict=True) if (title in _CONVNETS) is of_convnets]
        limits = [axes.get_xlim() for axes in alike]
        for axes in alike:
            axes.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
