"""The summary as a picture: top-1 of each row, with intervals where there are seeds enough."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_RANKED, _SINGLE = "#1f5fa8", "#888888"


def draw_top1(summary: Mapping[str, Any], file: Path) -> None:
    """Draw to a PNG.

    Args:
        summary: As `summarise` makes it.
        file: To write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ranked = sorted(summary["ranked"], key=lambda row: row["top1"]["mean"])
    # By name: one seed says nothing about their order.
    single = sorted(summary["not_ranked"], key=lambda row: str(row["name"]), reverse=True)
    rows = [*single, *ranked]
    figure, axes = pyplot.subplots(figsize=(7, 1.2 + 0.32 * len(rows)), layout="constrained")
    for place, row in enumerate(rows):
        mean, interval = 100 * row["top1"]["mean"], row["top1"]["interval"] if row in ranked else None
        if interval is None:
            axes.plot(mean, place, "o", markerfacecolor="white", markeredgecolor=_SINGLE)
            continue
        low, high = (100 * end for end in interval)
        axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=_RANKED, capsize=3)
        axes.plot([100 * v for v in row["top1"]["values"]], [place] * len(row["seeds"]), "|", color=_RANKED, alpha=0.6)
    if single and ranked:
        axes.axhline(len(single) - 0.5, color="#cccccc", linewidth=0.8)
        axes.annotate("runs, not ranked", (1, len(single) - 0.5), xycoords=("axes fraction", "data"),
                      textcoords="offset points", xytext=(-4, -10), ha="right", color=_SINGLE, fontsize=8)  # fmt: skip
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_xlabel("fine-tuned top-1 on CIFAR-10 (%), mean and 95 % t-interval over seeds")
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120, metadata={"Software": ""})
    pyplot.close(figure)
