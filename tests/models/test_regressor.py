"""The latent regressor and the decoder of masked patches against the plain reference."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.masked_decoder import MaskedDecoder
from edgemim.models.regressor import CrossAttentionBlock, LatentRegressor

PLAN = MaskPlan.from_keep_ids(torch.tensor([[4, 1], [0, 5]]), (2, 3))


def randomised(module: nn.Module) -> tuple[Any, dict[str, Tensor]]:
    """The module, every parameter of it random, and its state in float64."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module, {k: v.detach().double() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("depth", [1, 3])
def test_guesses_are_those_of_the_reference(reference: Callable[[str], ModuleType], depth: int) -> None:
    torch.manual_seed(0)
    regressor, state = randomised(LatentRegressor(16, (2, 3), depth=depth, heads=4))
    seen = torch.randn(2, 2, 16)
    guessed = regressor(seen, PLAN)
    assert guessed.shape == (2, 4, 16)
    table = torch.as_tensor(reference("positions").sincos_table(16, 2, 3, 0))
    for tokens, found, keep, hidden in zip(
        seen.double(), guessed.double(), PLAN.keep_ids.tolist(), PLAN.mask_ids.tolist(), strict=True
    ):
        pieces = reference("masked_autoencoder")
        plain = reference("cae").regress(pieces, tokens, keep, hidden, table, state, heads=4, blocks=depth)
        # float32 against float64.
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", [0, 2])
def test_decoded_guesses_are_those_of_the_reference(reference: Callable[[str], ModuleType], depth: int) -> None:
    torch.manual_seed(0)
    decoder, state = randomised(MaskedDecoder(16, (2, 3), 5, depth=depth, heads=4))
    latents = torch.randn(2, 4, 16)
    decoded = decoder(latents, PLAN)
    assert decoded.shape == (2, 4, 5)
    assert torch.equal(decoder.read(latents), decoded) == (depth == 0)
    table = torch.as_tensor(reference("positions").sincos_table(16, 2, 3, 0))
    for tokens, found, hidden in zip(latents.double(), decoded.double(), PLAN.mask_ids.tolist(), strict=True):
        pieces = reference("masked_autoencoder")
        plain = reference("cae").decode(pieces, tokens, hidden, table, state, heads=4, blocks=depth)
        # float32 against float64.
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)


def test_values_get_no_positions() -> None:
    """With queries and keys that see nothing, attention is a mean of values, wherever these lie."""
    torch.manual_seed(0)
    block, _ = randomised(CrossAttentionBlock(16, 4))
    with torch.no_grad():
        for norm in (block.norm_queries, block.norm_keys):
            norm.weight.zero_()
    x, at, context = torch.randn(2, 3, 16), torch.randn(2, 3, 16), torch.randn(2, 5, 16)
    one, other = (block(x, at, context, torch.randn(2, 5, 16)) for _ in range(2))
    # float32.
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_the_mlp_adds_to_the_normed_state() -> None:
    torch.manual_seed(0)
    block, _ = randomised(CrossAttentionBlock(16, 4))
    with torch.no_grad():
        block.mlp.fc2.weight.zero_()
        block.mlp.fc2.bias.zero_()
        block.norm.weight.fill_(1)
        block.norm.bias.zero_()
    out = block(*(10 * torch.randn(2, n, 16) for n in (3, 3, 5, 5)))
    # What is left is the norm of the sum: mean 0 and variance 1 of each token, but for an epsilon of 1e-6.
    torch.testing.assert_close(out.mean(dim=-1), torch.zeros(2, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.var(dim=-1, unbiased=False), torch.ones(2, 3), rtol=1e-4, atol=0)


def test_positions_are_fixed_and_not_saved() -> None:
    for module in (LatentRegressor(16, (2, 2), depth=1, heads=2), MaskedDecoder(16, (2, 2), 3, depth=1, heads=2)):
        assert "positions" not in module.state_dict()
        assert "positions" not in dict(module.named_parameters())
    regressor = LatentRegressor(16, (2, 2), depth=1, heads=2)
    assert 0 < regressor.mask_token.std() < 0.05


def test_a_width_without_positions_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 4; got 18"):
        LatentRegressor(18, (2, 2), heads=3)
    with pytest.raises(ConfigError, match="multiple of 4; got 18"):
        MaskedDecoder(18, (2, 2), 3, heads=3)
