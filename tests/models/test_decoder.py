"""The MAE decoder against the plain reference."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import timm
import torch

from edgemim.errors import ConfigError
from edgemim.models.decoder import MAEDecoder, SecondDecoder
from edgemim.models.decoder_block import DecoderBlock
from edgemim.models.mask_plan import MaskPlan, gather_tokens


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


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_what_is_predicted_of_masked_patches_alone_is_what_all_are_predicted_to_be(depth: int) -> None:
    torch.manual_seed(0)
    decoder = MAEDecoder(24, (2, 4), 5, width=16, depth=depth, heads=4)
    role = torch.tensor([[0, 1, 2, 1, 0, 1, 2, 1], [1, 1, 2, 0, 2, 1, 1, 0]], dtype=torch.int8)  # dropped ones too
    plan = MaskPlan(role, (2, 4))
    tokens = torch.randn(2, 1 + 2, 24)
    everything, masked = decoder(tokens, plan), decoder(tokens, plan, only_masked=True)
    assert masked.shape == (2, 4, 5)
    # float32, a few hundred roundings: shorter sums are taken in another order.
    torch.testing.assert_close(masked, gather_tokens(everything, plan.mask_ids), rtol=1e-5, atol=1e-6)


def test_gradients_of_masked_predictions_are_those_of_all_predictions() -> None:
    gradients = []
    for only_masked in (False, True):
        torch.manual_seed(0)
        decoder = MAEDecoder(24, (2, 4), 5, width=16, depth=2, heads=4)
        plan = MaskPlan.from_keep_ids(torch.tensor([[4, 1], [0, 5]]), (2, 4))
        tokens = torch.randn(2, 1 + 2, 24, requires_grad=True)
        predicted = decoder(tokens, plan, only_masked=only_masked)
        if not only_masked:
            predicted = gather_tokens(predicted, plan.mask_ids)
        (predicted.square() * torch.arange(6).view(1, 6, 1)).mean().backward()
        gradients.append({"tokens": tokens.grad, **{k: p.grad for k, p in decoder.named_parameters()}})
    for name, expected in gradients[0].items():
        # float32 sums in another order; small entries are differences of bigger ones.
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("only_masked", [False, True])
def test_a_second_decoder_reads_the_sequence_of_the_first(only_masked: bool) -> None:
    torch.manual_seed(0)
    first = MAEDecoder(24, (2, 4), 5, width=16, depth=2, heads=4)
    second = SecondDecoder(5, width=16, depth=2, heads=4)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    own = second.state_dict()
    assert not {name for name in own if name.startswith(("embed", "mask_token"))}
    second.load_state_dict({name: value for name, value in first.state_dict().items() if name in own})
    role = torch.tensor([[0, 1, 2, 1, 0, 1, 2, 1], [1, 1, 2, 0, 2, 1, 1, 0]], dtype=torch.int8)  # dropped ones too
    plan, tokens = MaskPlan(role, (2, 4)), torch.randn(2, 1 + 2, 24)
    sequence = first.sequence(first.embed(tokens), plan)
    assert sequence.shape == (2, 1 + 2 + 4, 16)
    expected = first(tokens, plan, only_masked=only_masked)
    assert torch.equal(second(sequence, plan, only_masked=only_masked), expected)
    assert torch.equal(first.decode(sequence, plan, only_masked=only_masked), expected)


def test_a_block_is_timms_block() -> None:
    torch.manual_seed(0)
    other = timm.models.vision_transformer.Block(16, 4, qkv_bias=True, norm_layer=timm.layers.LayerNorm)
    own = DecoderBlock(16, 4)
    own.load_state_dict(other.state_dict())
    x = torch.randn(2, 7, 16)
    torch.testing.assert_close(own(x), other(x))
    torch.testing.assert_close(own(x, start=2, stop=5), other(x)[:, 2:5])


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
