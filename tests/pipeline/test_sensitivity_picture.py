"""Where a unit stands in the picture."""

from __future__ import annotations

import numpy as np

from edgemim.pipeline.sensitivity_picture import columns, decibel, table
from edgemim.quantize.sensitivity import Damage, Sensitivity, UnitDamage


def _unit(name: str, block: str, noise: float) -> UnitDamage:
    damage = Damage(noise=noise, cosine=1.0, agreement=None)
    return UnitDamage(unit=name, kind=name.rpartition(".")[2], block=block, enabled=damage, disabled=damage)


def _found() -> Sensitivity:
    units = (
        _unit("blocks.0.fc1", "blocks.0", 0.1),
        _unit("head", "", 0.3),
        _unit("blocks.1.fc1", "blocks.1", 0.2),
        _unit("patch_embed", "", 0.4),
    )
    everything = Damage(noise=1.0, cosine=1.0, agreement=None)
    return Sensitivity(placement="linear", units=units, everything=everything, images=1)


def test_the_patch_embedding_comes_first_and_the_rest_in_order() -> None:
    assert columns(_found()) == ["patch_embed", "blocks.0", "head", "blocks.1"]


def test_a_place_without_a_unit_stays_empty() -> None:
    found = _found()
    grid = table(found, columns(found), ["fc1", "head", "patch_embed"], lambda entry: entry.enabled.noise)
    expected = [[np.nan, 0.1, np.nan, 0.2], [np.nan, np.nan, 0.3, np.nan], [0.4, np.nan, np.nan, np.nan]]
    np.testing.assert_array_equal(grid, expected)


def test_decibels() -> None:
    assert decibel(0.01) == -20
    assert decibel(0.0) == -120
