"""The table of docs/training.md on cached teachers, from `benchmarks/results/teacher_cache.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from int8_tables import origin

Kept = Mapping[str, Any]

_KIB = 1024


def teacher_cache(kept: Kept) -> str:
    """A step with a live teacher and one with a cached one, and what filling the cache takes."""
    lines = [
        "| method | teacher to student | pixels | live (s) | cached (s) | speed-up (range of rounds) | of it reading | "
        "stored per crop | filled per second | pays after |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_line(row) for row in kept["rows"].values()]
    batches = sorted({row["batch_size"] for row in kept["rows"].values()})
    facts = (
        f"A step of {' or '.join(map(str, batches))} images, threads: {kept['threads']}, {kept['precision']}; medians "
        f"of {kept['rounds']} rounds in turn. The last column says how often a crop has to come before the time for "
        "filling is back."
    )
    return "\n\n".join(["\n".join(lines), facts, origin(kept)])


def _line(row: Kept) -> str:
    live, cached = row["steps"]["live teacher"], row["steps"]["cached teacher"]
    slowest, fastest = (1 / ratio for ratio in reversed(cached["ratio_range"]))
    cells = [
        f"`{row['method']}`",
        f"{_model(row['teacher'], row['teacher_shape'])} to {_model(row['student'], row['student_shape'])}",
        str(row["image_size"]),
        f"{live['median_s']:.3g}",
        f"{cached['median_s']:.3g}",
        f"{row['speed_up']:.2f}x ({slowest:.2f} to {fastest:.2f})",
        f"{100 * row['read_share']:.1f} %",
        f"{row['bytes_per_image'] / _KIB:,.0f} KiB",
        f"{row['fill_images_per_s']:,.3g} images",
        f"{row['pays_after']:.1f} times",
    ]
    return "| " + " | ".join(cells) + " |"


def _model(name: str, shape: Kept) -> str:
    if shape:
        return f"ViT {shape['embed_dim']} x {shape['depth']}"
    return {"vit_base_patch16_224": "ViT-B/16", "vit_tiny_patch16_224": "ViT-Ti/16"}.get(name, name)
