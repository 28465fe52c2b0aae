"""A sensitivity as a picture: blocks from left to right, kinds of layers from top to bottom."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgemim.quantize.sensitivity import Sensitivity, UnitDamage

# What lies outside of any block comes before or after them.
_FIRST = ("patch_embed", "stem", "conv_stem")


def draw_sensitivity(found: Sensitivity) -> bytes:
    """A PNG with two panels: the noise of each unit alone in INT8, and what is left when it alone is in float."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    blocks, kinds = columns(found), list(dict.fromkeys(entry.kind for entry in found.units))
    everything = max(found.everything.noise, 1e-30)
    panels: tuple[tuple[str, str, Callable[[UnitDamage], float]], ...] = (
        ("this alone in INT8", "noise / signal (dB)", lambda entry: decibel(entry.enabled.noise)),
        ("all but this in INT8", "noise left (share of all in INT8)", lambda entry: entry.disabled.noise / everything),
    )
    width = max(5.0, 1.8 + 0.45 * len(blocks))
    figure, axes = pyplot.subplots(2, 1, figsize=(width, 1.6 + 0.7 * len(kinds)), layout="constrained")
    for axis, (title, unit, value) in zip(axes, panels, strict=True):
        grid = table(found, blocks, kinds, value)
        image = axis.imshow(grid, aspect="auto", cmap="viridis_r" if value is panels[1][2] else "viridis")
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(len(blocks)), [block or "-" for block in blocks], rotation=90, fontsize=7)
        axis.set_yticks(range(len(kinds)), kinds, fontsize=8)
        figure.colorbar(image, ax=axis, label=unit)
    total = f"{found.placement}: all in INT8 {decibel(found.everything.noise):.1f} dB, {found.images} images"
    figure.suptitle(total, fontsize=10)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120, metadata={"Software": ""})
    pyplot.close(figure)
    return stream.getvalue()


def columns(found: Sensitivity) -> list[str]:
    """Blocks in the model's order; units outside of any stand under their own names, before or after the blocks."""
    names = list(dict.fromkeys(entry.block or entry.unit for entry in found.units))
    before = [name for name in names if name.startswith(_FIRST)]
    return [*before, *(name for name in names if name not in before)]


def table(
    found: Sensitivity, blocks: list[str], kinds: list[str], value: Callable[[UnitDamage], float]
) -> npt.NDArray[np.float64]:
    """[kinds, blocks]: the largest value of each place; NaN where there is no unit."""
    grid = np.full((len(kinds), len(blocks)), np.nan)
    for entry in found.units:
        place = kinds.index(entry.kind), blocks.index(entry.block or entry.unit)
        grid[place] = np.nanmax([grid[place], value(entry)])
    return grid


def decibel(noise: float) -> float:
    """Energy ratio in dB; -120 and less are shown as -120."""
    return 10 * math.log10(max(noise, 1e-12))
