"""The position table against one computed number by number."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch

from edgemim.errors import ConfigError
from edgemim.models.positions import sincos_positions


@pytest.mark.parametrize(("width", "grid", "prefix"), [(16, (3, 5), 1), (64, (14, 14), 0), (4, (1, 7), 5)])
def test_it_is_the_reference_table(
    reference: Callable[[str], ModuleType], width: int, grid: tuple[int, int], prefix: int
) -> None:
    expected = reference("positions").sincos_table(width, *grid, prefix)
    # Both are computed in float64; ours is then rounded to float32, half a unit in the last place of 1.
    np.testing.assert_allclose(sincos_positions(width, grid, prefix).numpy(), expected, atol=6e-8)


def test_a_worked_example() -> None:
    # Width 4: one frequency, 1. The token in row 1, column 2: sin 2, cos 2, sin 1, cos 1.
    table = sincos_positions(4, (2, 3), 1)
    assert table.shape == (7, 4)
    assert table[0].tolist() == [0, 0, 0, 0]
    expected = torch.tensor([2.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    expected = torch.stack([expected[0].sin(), expected[1].cos(), expected[2].sin(), expected[3].cos()]).float()
    assert torch.equal(table[6], expected)


@pytest.mark.parametrize("width", [2, 6, 17])
def test_a_width_that_does_not_split_in_four_is_refused(width: int) -> None:
    with pytest.raises(ConfigError, match=f"multiple of 4; got {width}"):
        sincos_positions(width, (2, 2))
