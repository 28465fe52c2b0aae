"""The table of docs/training.md on crops, from `benchmarks/results/augmentation.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from int8_tables import origin

Kept = Mapping[str, Any]


def augmentation(kept: Kept) -> str:
    """Images/s of each way to crop, and its share of a run without workers."""
    lines = [
        "| stored | model | way | images/s | least to most | share of a run |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_line(row) for row in kept["rows"]]
    facts = (
        f"Batches of {kept['batch_size']}. Crops and decoding on one core; the step (MAE, ViT-Ti, a decoder of one "
        f"block, fp32) with {kept['threads']['step']} threads, or on the GPU where there is one."
    )
    return "\n\n".join(["\n".join(lines), facts, origin(kept)])


def _line(row: Kept) -> str:
    height, width = row["stored"]
    least, most = row["range"]
    share = "-" if row["share_of_run"] is None else f"{100 * row['share_of_run']:.1f} %"
    cells = [
        f"{width} x {height}",
        str(row["side"]),
        row["way"],
        f"{row['images_per_s']:,.0f}",
        f"{least:,.0f} to {most:,.0f}",
        share,
    ]
    return f"| {' | '.join(cells)} |"
