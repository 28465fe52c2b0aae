"""The table of docs/training.md on streams, from `benchmarks/results/streaming.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from int8_tables import origin

Kept = Mapping[str, Any]


def streaming(kept: Kept) -> str:
    """Memory at points of one epoch, images/s, and what a resumed run saw."""
    lines = [
        "| shards | workers | memory after a tenth, half and the whole of an epoch (MiB) | at most | images/s |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [_line(row) for row in kept["rows"]]
    sizes = " and ".join(f"{size:.0f} MB as {kind}" for kind, size in kept["size_mb"].items())
    facts = (
        f"{kept['images']:,} images of {kept['image_side']} pixels, {sizes}; a window of {kept['window_mb']} MB. "
        "Memory is what is resident of the process's own and its workers', above what it had before it opened the "
        "stream; what a worker's interpreter changes, and so shares no longer, is in it."
    )
    return "\n\n".join(["\n".join(lines), facts, _resumed(kept["resumed"]), origin(kept)])


def _line(row: Kept) -> str:
    memory = row["memory_mib"]
    points = [memory[len(memory) // 10], memory[len(memory) // 2], memory[-1]]
    cells = [
        row["format"],
        str(row["workers"]),
        ", ".join(f"{value:.0f}" for value in points),
        f"{row['peak_mib']:.0f}",
        f"{row['images_per_s']:,}",
    ]
    return f"| {' | '.join(cells)} |"


def _resumed(resumed: Kept) -> str:
    once = "each image once" if resumed["each_image_once"] else "not each image once"
    same = "the same batches" if resumed["same_batches"] else "other batches"
    return (
        f"Killed at step {resumed['killed_at_step']} of {resumed['steps']} and resumed by another process: "
        f"together they saw {once}, and {same}, pixel for pixel, as a process that nobody stopped."
    )
