"""The head of GMML and SiT: which blocks it reads, and which backbones it refuses. Its values: `test_gmml.py`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from edgemim.errors import ConfigError
from edgemim.methods._pixel_head import PixelHead
from edgemim.models.adapters import adapt
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.build import build_backbone


def vit(depth: int, **arguments: Any) -> BackboneAdapter:
    shape = {"img_size": (16, 24), "patch_size": 8, "embed_dim": 16, "num_heads": 2, "depth": depth}
    return adapt(build_backbone("vit_tiny_patch16_224", {**shape, **arguments}))


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [(12, (6, 8, 10, 12)), (24, (12, 16, 20, 24)), (6, (3, 4, 5, 6)), (4, (2, 3, 4)), (2, (1, 2)), (1, (1,))],
)
def test_it_reads_the_middle_the_end_and_two_between(depth: int, blocks: tuple[int, ...]) -> None:
    assert PixelHead(vit(depth)).blocks == tuple(number - 1 for number in blocks)


def test_the_order_of_the_blocks_does_not_matter_and_the_prefix_has_no_say() -> None:
    head = PixelHead(vit(6, reg_tokens=2))
    taps = dict(enumerate(torch.randn(6, 2, 3 + 6, 16, generator=torch.Generator().manual_seed(0))))
    swapped = {**taps, 2: taps[5], 5: taps[2]}
    changed = {block: torch.cat([tokens[:, :3] + 5, tokens[:, 3:]], dim=1) for block, tokens in taps.items()}
    images = head(taps)
    assert images.shape == (2, 3, 16, 24)
    # A sum in another order.
    torch.testing.assert_close(head(swapped), images, rtol=1e-5, atol=1e-6)
    assert torch.equal(head(changed), images)


def test_a_patch_is_predicted_from_its_own_token() -> None:
    head = PixelHead(vit(2))
    tokens = torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[0, 1 + 4] += 1 + torch.arange(16.0)  # second row, second column
    differs = (head({0: tokens, 1: tokens}) != head({0: other, 1: other}))[0].any(dim=0)
    assert differs[8:, 8:16].all()
    assert int(differs.sum()) == 64


def test_half_precision_gives_images_in_float32() -> None:
    head = PixelHead(vit(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head({0: torch.zeros(1, 7, 16)}).dtype == torch.float32


def test_a_backbone_is_left_in_the_mode_that_it_was_in() -> None:
    adapter = vit(2)
    for training in (True, False):
        adapter.backbone.train(training)
        PixelHead(adapter)
        assert all(module.training == training for module in adapter.backbone.modules())


def test_stages_are_refused() -> None:
    shape = {"img_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
    swin = adapt(build_backbone("swin_tiny_patch4_window7_224", shape))
    convnet: nn.Module = build_backbone("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 16)})
    for adapter, name, block, last in ((swin, "SwinTransformer", 1, 3), (adapt(convnet, (32, 64)), "ConvNeXt", 1, 3)):
        with pytest.raises(ConfigError) as error:
            PixelHead(adapter)
        assert str(error.value) == (
            f"{name} has other tokens after block {block} than after its last, {last}, and their mean is wanted; "
            "choose a backbone without stages (ViT, BEiT)"
        )


def test_images_that_are_no_whole_number_of_patches_are_refused() -> None:
    shape = {"img_size": 20, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    adapter = adapt(build_backbone("eva02_tiny_patch14_224", shape), (20, 20))
    with pytest.raises(ConfigError, match=r"images of 20x20 are no whole number of the \d+x\d+ pixels that a final"):
        PixelHead(adapter)
