"""The UNet decoder against the plain reference, and its shape."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.unet_decoder import UNetDecoder

GRID = (2, 3)
KEEPS = [[0, 5, 3], [1, 2, 4]]
PLAN = MaskPlan.from_keep_ids(torch.tensor(KEEPS), GRID)

# Channels of each level by its stride, and the decoder's width.
SHAPES: dict[str, tuple[dict[int, int], int]] = {
    "two levels, the coarsest as wide as the decoder": ({4: 6, 8: 16}, 16),
    "two levels, the coarsest projected": ({4: 6, 8: 10}, 16),
    "a level is missing on the way": ({2: 3, 8: 10}, 8),
    "one level": ({4: 5}, 8),
}


def maps_of(widths: dict[int, int], coarsest: int) -> dict[int, Tensor]:
    """Random levels, empty in hidden cells."""
    rng, made = torch.Generator().manual_seed(3), {}
    for stride, channels in widths.items():
        side = coarsest // stride
        x = torch.randn(2, channels, GRID[0] * side, GRID[1] * side, generator=rng)
        hidden = PLAN.mask.view(2, 1, *GRID).repeat_interleave(side, 2).repeat_interleave(side, 3)
        made[stride] = x.masked_fill(hidden, 0)
    return made


def randomised(widths: dict[int, int], width: int, *, layer_norm: bool) -> UNetDecoder:
    torch.manual_seed(0)
    decoder = UNetDecoder(widths, width=width, layer_norm=layer_norm)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return decoder


@pytest.mark.parametrize("layer_norm", [False, True], ids=["batch norm", "layer norm"])
@pytest.mark.parametrize(("widths", "width"), SHAPES.values(), ids=SHAPES.keys())
def test_predictions_are_those_of_the_reference(
    reference: Callable[[str], ModuleType], widths: dict[int, int], width: int, layer_norm: bool
) -> None:
    decoder, maps = randomised(widths, width, layer_norm=layer_norm), maps_of(widths, max(widths))
    predicted = decoder(maps, PLAN)
    plain = reference("spark")
    state = {k: v.detach().double() for k, v in decoder.named_parameters()}
    levels = {
        stride: [
            {(r, c): x[image, :, r, c].double() for r, c in plain.visible_places(KEEPS[image], GRID, *x.shape[2:])}
            for image in range(2)
        ]
        for stride, x in maps.items()
    }
    expected = torch.stack(plain.decode(levels, state, GRID, width=width, batch_norms=not layer_norm))
    assert predicted.shape == (2, 3, GRID[0] * max(widths), GRID[1] * max(widths))
    # float32 against float64, through up to seven batch norms.
    torch.testing.assert_close(predicted.double(), expected, rtol=1e-4, atol=1e-5)


def test_what_stands_in_hidden_cells_is_the_mask_vector() -> None:
    decoder, maps = randomised({4: 6, 8: 10}, 16, layer_norm=False).eval(), maps_of({4: 6, 8: 10}, 8)
    seen: list[Tensor] = []
    fill = decoder.fill["4"]
    fill.project.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    decoder(maps, PLAN)
    hidden = PLAN.mask.view(2, 1, *GRID).repeat_interleave(2, 2).repeat_interleave(2, 3)
    token = fill.mask_token.view(1, -1, 1, 1).expand_as(seen[0])
    assert torch.equal(seen[0][hidden.expand_as(seen[0])], token[hidden.expand_as(token)])
    assert not torch.isclose(seen[0], token)[~hidden.expand_as(token)].any()


def test_gradients_reach_everything_but_hidden_places() -> None:
    decoder, maps = randomised({4: 6, 8: 10}, 16, layer_norm=False), maps_of({4: 6, 8: 10}, 8)
    for x in maps.values():
        x.requires_grad_()
    decoder(maps, PLAN).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in decoder.parameters())
    for stride, x in maps.items():
        hidden = PLAN.mask.view(2, 1, *GRID).repeat_interleave(8 // stride, 2).repeat_interleave(8 // stride, 3)
        assert x.grad is not None
        assert (x.grad[hidden.expand_as(x)] == 0).all()
        assert (x.grad[~hidden.expand_as(x)] != 0).all()


def test_the_shape_is_the_papers_for_a_resnet() -> None:
    decoder = UNetDecoder({4: 256, 8: 512, 16: 1024, 32: 2048})
    assert [(s.enlarge.in_channels, s.refine[3].out_channels) for s in decoder.grow] == [  # type: ignore[union-attr]
        (768, 384),
        (384, 192),
        (192, 96),
        (96, 48),
        (48, 24),
    ]
    projections = {stride: fill.project for stride, fill in decoder.fill.items()}
    sides = {k: (p.in_channels, p.out_channels, p.kernel_size[0]) for k, p in projections.items()}
    assert sides == {
        "32": (2048, 768, 1),
        "16": (1024, 384, 3),
        "8": (512, 192, 3),
        "4": (256, 96, 3),
    }
    assert all(isinstance(fill.norm, nn.BatchNorm2d) for fill in decoder.fill.values())
    assert decoder.predict.weight.shape == (3, 24, 1, 1)
    tokens = [fill.mask_token for fill in decoder.fill.values()]
    assert all(t.dim() == 1 and 0 < t.std() <= 0.02 for t in tokens)  # type: ignore[operator,union-attr]


def test_weights_start_as_the_released_ones() -> None:
    torch.manual_seed(0)
    decoder = UNetDecoder({4: 64, 8: 128}, width=256)
    plain, transposed = [], []
    for module in (*decoder.grow.modules(), decoder.predict):
        if isinstance(module, nn.ConvTranspose2d):
            transposed.append(module)
        elif isinstance(module, nn.Conv2d):
            plain.append(module)
    assert len(plain) == 7
    assert len(transposed) == 3
    # The smallest of these has 96 weights, whose deviation is itself uncertain by 1 / sqrt(2 * 96) = 7 %: four of them.
    for module in plain:
        assert module.weight.std().item() == pytest.approx(0.02, rel=0.3)
    # sqrt(2 / fan), where a place that goes out is made of 4 x 4 weights of each channel that comes in; 65,536 weights
    # in the smallest, uncertain by 0.3 %.
    for module in transposed:
        assert module.weight.std().item() == pytest.approx((2 / (16 * module.in_channels)) ** 0.5, rel=0.012)
    assert all((m.bias == 0).all() for m in (*plain, *transposed) if m.bias is not None)
    # What projects the levels is left at torch's start, uniform up to 1 / sqrt(fan).
    project = decoder.fill["4"].project
    assert project.weight.abs().max().item() == pytest.approx((1 / (9 * 64)) ** 0.5, rel=0.01)  # type: ignore[operator,union-attr]


@pytest.mark.parametrize("width", [100, 0, 16])
def test_a_width_that_cannot_be_halved_is_refused(width: int) -> None:
    with pytest.raises(ConfigError, match=f"decoder_width {width} cannot be halved 5 times.*a multiple of 32"):
        UNetDecoder({4: 8, 32: 8}, width=width)
