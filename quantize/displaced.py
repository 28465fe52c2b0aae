"""How much of an attention INT8 moves elsewhere: the softmax with its scale, beside the softmax as it was.

A row of a softmax is a distribution over tokens. Rounding makes weights below half a step vanish and others too large;
with one step for a whole layer, an attention that is sharp in one row and diffuse in the next loses most of the diffuse
one. What counts is the share of the weight that ends up elsewhere, not the squared error, which only the large weights
make. The measured histogram gives it, with no further pass over images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from edgemim.quantize.insert import levels
from edgemim.quantize.sites import Unit
from edgemim.quantize.statistics.observed import Observed
from edgemim.runtime.targets._base import Target

# Beyond it an attention stays in float. On a ViT trained on CIFAR-10, one early block with 0.03 made as much noise in
# the logits as all linear layers together, and the noise grows with the square.
MOST_DISPLACED = 0.05
# Points at which a bin of the histogram is rounded; a bin is at most about one step wide.
_POINTS = 8


def displaced(observed: Observed, threshold: float, levels: int) -> float:
    """Sum of |x - rounded x| over the sum of x, halved: for a softmax, the mean distance of total variation.

    Args:
        observed: Values of 0 or more, with a histogram; within a bin they count as evenly spread.
        threshold: The largest value that is represented.
        levels: Steps up to it.

    Returns:
        0 for an exact softmax; 0.5 where all of it rounds to zero; there is no upper limit where steps are too large.
    """
    edges, counts = observed.filled()
    total = displacement = 0.0
    for point in (np.arange(_POINTS) + 0.5) / _POINTS:
        values = edges[:-1] + point * np.diff(edges)
        step = threshold / levels
        rounded = np.minimum(np.rint(values / step), levels) * step
        total += float(counts @ values)
        displacement += float(counts @ np.abs(values - rounded))
    return displacement / total / 2 if total else 0.0


def displacements(
    units: Iterable[Unit], statistics: Mapping[str, Observed], thresholds: Mapping[str, float], target: Target
) -> dict[str, float]:
    """The largest displacement of a softmax in each attention, by unit.

    Args:
        units: Of a placement; those without a softmax are passed over.
        statistics, thresholds: By site key.
        target: Its integer types decide how many levels there are.
    """
    unsigned = "uint8" in target.activation_dtypes
    found: dict[str, float] = {}
    for unit in units:
        shares = [
            displaced(statistics[site.key], thresholds[site.key], levels(site, unsigned=unsigned))
            for site in unit.sites
            if site.role.startswith("softmax")
        ]
        if shares:
            found[unit.name] = max(shares)
    return found


def displacement_notes(spoiled: Mapping[str, float]) -> tuple[str, ...]:
    """One sentence on the attentions that stay in float, the worst one named; nothing if there are none."""
    if not spoiled:
        return ()
    worst = max(spoiled, key=spoiled.__getitem__)
    one = len(spoiled) == 1
    which = f"the attention {worst!r} stays" if one else f"{len(spoiled)} attentions stay"
    whose, where = ("its", "") if one else ("their", f" of {worst!r}")
    return (
        f"{which} in float, {whose} linear layers in INT8: INT8 would move {spoiled[worst]:.0%} of the weights{where} "
        f"elsewhere ({MOST_DISPLACED:.0%} is the most)",
    )
