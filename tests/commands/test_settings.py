"""From a recipe, the options of a command and `--set` to the settings of a run."""

from __future__ import annotations

from typing import Any

import pytest

from edgemim.commands._settings import run_values
from edgemim.errors import ConfigError


def masking(recipe: str, *sets: str) -> dict[str, Any]:
    found: dict[str, Any] = run_values(recipe, options={}, sets=sets)["masking"]
    return found


@pytest.mark.parametrize(
    ("recipe", "sets", "expected"),
    [
        ("simmim-small", ["masking.name=random"], {"name": "random", "mask_ratio": 0.6}),
        ("simmim-small", ["masking.name=cells"], {"name": "cells", "mask_ratio": 0.6, "cell": 8}),
        ("simmim-small", ["masking.cell=4"], {"name": "cells", "mask_ratio": 0.6, "cell": 4}),
        ("mae-small", ["masking.name=cells", "masking.cell=8"], {"name": "cells", "mask_ratio": 0.75, "cell": 8}),
        ("hpm-small", ["masking.name=random"], {"name": "random", "mask_ratio": 0.75}),
    ],
)
def test_another_masking_loses_what_only_the_recipes_has(
    recipe: str, sets: list[str], expected: dict[str, Any]
) -> None:
    assert masking(recipe, *sets) == expected


def test_what_was_asked_for_stays_and_is_refused_later() -> None:
    asked = masking("simmim-small", "masking.name=random", "masking.cell=8")
    assert asked == {"name": "random", "mask_ratio": 0.6, "cell": 8}


def test_an_unknown_masking_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown masking 'rnadom'; did you mean 'random'"):
        masking("simmim-small", "masking.name=rnadom")
