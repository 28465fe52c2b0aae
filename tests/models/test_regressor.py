"""The latent regressor and the decoder of masked patches against the plain reference."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from timm.layers import DropPath
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


@pytest.mark.parametrize(("depth", "scale"), [(1, None), (3, None), (3, 0.1)])
def test_guesses_are_those_of_the_reference(
    reference: Callable[[str], ModuleType], depth: int, scale: float | None
) -> None:
    torch.manual_seed(0)
    regressor, state = randomised(LatentRegressor(16, (2, 3), depth=depth, heads=4, layer_scale=scale))
    assert sum(name.endswith("gamma") for name in state) == (2 * depth if scale else 0)
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


@pytest.mark.parametrize(("depth", "scale"), [(0, None), (0, 0.1), (2, None), (2, 0.1)])
def test_decoded_guesses_are_those_of_the_reference(
    reference: Callable[[str], ModuleType], depth: int, scale: float | None
) -> None:
    torch.manual_seed(0)
    decoder, state = randomised(MaskedDecoder(16, (2, 3), 5, depth=depth, heads=4, layer_scale=scale))
    assert sum(name.endswith("gamma") for name in state) == (2 * depth if scale else 0)
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


def test_the_mask_token_is_drawn_from_a_normal_of_002_that_is_cut_off_at_one_deviation() -> None:
    torch.manual_seed(0)
    token = LatentRegressor(4000, (2, 2), depth=0, heads=2).mask_token.detach()
    assert token.abs().max() <= 0.02
    # What is left of a normal between -1 and 1 has a deviation of 0.54; that of 4,000 numbers is known to 1 %.
    assert float(token.std()) == pytest.approx(0.54 * 0.02, rel=0.05)


@pytest.mark.parametrize("make", [LatentRegressor, lambda *shape, **more: MaskedDecoder(*shape, 5, **more)])
def test_blocks_begin_with_the_layer_scale_and_drop_more_and_more_of_what_they_add(make: Any) -> None:
    module = make(16, (2, 3), depth=4, heads=4, layer_scale=0.25, drop_path=0.3)
    gammas = [p for name, p in module.named_parameters() if name.endswith("gamma")]
    assert len(gammas) == 8
    assert all((gamma == 0.25).all() for gamma in gammas)
    rates = [max((m.drop_prob for m in b.modules() if isinstance(m, DropPath)), default=0.0) for b in module.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    tokens = torch.randn(2, 2 if isinstance(module, LatentRegressor) else 4, 16)
    torch.manual_seed(1)
    assert not torch.equal(module(tokens, PLAN), module(tokens, PLAN))
    module.eval()
    assert torch.equal(module(tokens, PLAN), module(tokens, PLAN))


def test_an_image_whose_block_drops_all_goes_on_as_it_was_but_for_the_norm() -> None:
    torch.manual_seed(0)
    block, _ = randomised(CrossAttentionBlock(16, 4, None, 1 - 1e-9))
    x, at, context, places = (torch.randn(2, n, 16) for n in (3, 3, 5, 5))
    assert torch.equal(block(x, at, context, places), block.norm(x))


def test_a_width_without_positions_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 4; got 18"):
        LatentRegressor(18, (2, 2), heads=3)
    with pytest.raises(ConfigError, match="multiple of 4; got 18"):
        MaskedDecoder(18, (2, 2), 3, heads=3)
