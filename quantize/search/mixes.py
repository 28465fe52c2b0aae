"""Which mixes of INT8 and float are worth a measurement, from what was measured so far.

Two questions, one round each. Is a placement fast but too far off? Then units are given back to float, the ones that
hurt most first. Is one right, but not as fast as it could be? Then each kind of layer is given back in turn, since on
some CPUs an INT8 layer of one shape is slower than its float form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgemim.quantize.recipe import Recipe
from edgemim.quantize.sensitivity import Sensitivity
from edgemim.quantize.sites import Unit

Row = Mapping[str, Any]

# An INT8 form this much slower than the fastest float one will not win by giving layers back: every layer that is
# given back only brings it nearer to the float model.
HOPELESS = 1.25
_STEPS = (1, 2, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class Mix:
    """A flavour to try: its name and what makes it."""

    name: str
    recipe: Recipe


def accuracy_mixes(placement: str, recipe: Recipe, sensitivity: Sensitivity) -> list[Mix]:
    """Recipes with the worst 1, 2, 4, ... units in float, as long as most stay in INT8."""
    worst = [entry.unit for entry in sensitivity.ranked()]
    return [
        Mix(name=f"int8-{placement}-less{count}", recipe=recipe.without(*worst[:count]))
        for count in _STEPS
        if count <= len(worst) // 2
    ]


def kind_mixes(name: str, recipe: Recipe, units: Sequence[Unit]) -> list[Mix]:
    """Recipes with one kind of layer in float; a kind that is all there is makes none.

    Args:
        name: Of the flavour that `recipe` makes.
        units: All units of its placement, those that the recipe leaves out included.
    """
    left = [unit for unit in units if unit.name not in recipe.left_out]
    kinds = list(dict.fromkeys(unit.kind for unit in left))
    if len(kinds) < 2:
        return []
    return [
        Mix(
            name=f"{name}-no-{kind.replace('_', '-')}",
            recipe=recipe.without(*(unit.name for unit in left if unit.kind == kind)),
        )
        for kind in kinds
    ]


def hopeless(rows: Sequence[Row]) -> str | None:
    """Why no mix is worth trying, or None.

    Args:
        rows: Of a report that has float and INT8 candidates.
    """
    floats = [row for row in rows if row["precision"] != "int8" and row["latency"] is not None]
    ints = [row for row in rows if row["precision"] == "int8" and row["latency"] is not None]
    if not ints:
        return "no INT8 candidate could be measured"
    if not floats:
        return None
    quickest = min(ints, key=lambda row: float(row["latency"]["p50_ms"]))
    rival = min(floats, key=lambda row: float(row["latency"]["p50_ms"]))
    ratio = quickest["latency"]["p50_ms"] / rival["latency"]["p50_ms"]
    if ratio < HOPELESS:
        return None
    return (
        f"the fastest INT8 candidate, {quickest['name']}, takes {ratio:.2f} times as long as {rival['name']} on this "
        "machine, and giving layers back to float only brings it nearer to that"
    )
