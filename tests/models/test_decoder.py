"""The MAE decoder against the plain reference."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from edgemim.errors import ConfigError
from edgemim.models.decoder import MAEDecoder
from edgemim.models.mask_plan import MaskPlan


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_predictions_are_those_of_the_reference(reference: Callable[[str], ModuleType], prefix: int) -> None:
    torch.manual_seed(0)
    decoder = MAEDecoder(24, (2, 3), 5, width=16, depth=2, heads=4, num_prefix=prefix)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    plan = MaskPlan.from_keep_ids(torch.tensor([[4, 1], [0, 5]]), (2, 3))
    tokens = torch.randn(2, prefix + 2, 24)
    predicted = decoder(tokens, plan)
    assert predicted.shape == (2, 6, 5)
    state = {k: v.detach().double() for k, v in decoder.state_dict().items()}
    table = torch.as_tensor(reference("positions").sincos_table(16, 2, 3, prefix))
    for i, keep in enumerate(plan.keep_ids.tolist()):
        plain = reference("masked_autoencoder").decode(tokens[i].double(), keep, state, table, heads=4, blocks=2)
        # float32 against float64.
        torch.testing.assert_close(predicted[i].double(), plain, rtol=1e-5, atol=1e-5)


def test_positions_are_fixed_and_not_saved() -> None:
    decoder = MAEDecoder(8, (2, 2), 3, width=16, depth=1, heads=2)
    assert "positions" not in decoder.state_dict()
    assert "positions" not in dict(decoder.named_parameters())
    assert (decoder.positions[0, 0] == 0).all()
    assert 0 < decoder.mask_token.std() < 0.05


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"width": 16, "heads": 3}, "decoder width 16 is not a multiple of its 3 heads"),
        ({"width": 18, "heads": 3}, "multiple of 4; got 18"),
        ({"width": 16, "heads": 0}, "heads 0 must be at least 1"),
        ({"width": 16, "heads": 2, "depth": -1}, "depth -1 at least 0"),
    ],
)
def test_an_impossible_shape_is_refused(shape: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MAEDecoder(8, (2, 2), 3, **shape)
