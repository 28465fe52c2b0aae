"""Projectors from the student's width to the teacher's."""

import pytest
import torch
from torch import nn

from edgemim.errors import ConfigError
from edgemim.methods._projector import PROJECTORS, build_projector


@pytest.mark.parametrize(("kind", "layers", "nonlinear"), [("linear", 1, 0), ("mlp", 2, 1), ("mlp2", 4, 2)])
def test_each_kind_has_its_layers(kind: str, layers: int, nonlinear: int) -> None:
    projector = build_projector(kind, 6, 10)
    assert projector is not None
    assert projector(torch.randn(2, 3, 6)).shape == (2, 3, 10)
    assert sum(isinstance(m, nn.Linear) for m in projector.modules()) == layers
    assert sum(isinstance(m, nn.GELU) for m in projector.modules()) == nonlinear
    assert all((m.bias == 0).all() for m in projector.modules() if isinstance(m, nn.Linear))


def test_none_is_for_equal_widths() -> None:
    assert build_projector("none", 6, 6) is None
    with pytest.raises(ConfigError, match="needs equal widths; the student has 6, the teacher 10"):
        build_projector("none", 6, 10)


def test_an_unknown_kind_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=f"must be one of {', '.join(PROJECTORS)}; got 'conv'"):
        build_projector("conv", 6, 10)
