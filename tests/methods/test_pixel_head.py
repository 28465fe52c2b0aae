"""The head of GMML and SiT: what it reads, and which images it refuses. Its values: `test_gmml.py`."""

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


def vit(**arguments: Any) -> BackboneAdapter:
    shape = {"img_size": (16, 24), "patch_size": 8, "embed_dim": 16, "num_heads": 2, "depth": 1}
    return adapt(build_backbone("vit_tiny_patch16_224", {**shape, **arguments}))


def test_class_and_register_tokens_have_no_say() -> None:
    head = PixelHead(vit(reg_tokens=2))
    tokens = torch.randn(2, 3 + 6, 16, generator=torch.Generator().manual_seed(0))
    images = head(tokens)
    assert images.shape == (2, 3, 16, 24)
    assert torch.equal(head(torch.cat([tokens[:, :3] + 5, tokens[:, 3:]], dim=1)), images)


def test_a_patch_is_predicted_from_its_own_token() -> None:
    head = PixelHead(vit())
    tokens = torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[0, 1 + 4] += 1 + torch.arange(16.0)  # second row, second column
    differs = (head(tokens) != head(other))[0].any(dim=0)
    assert differs[8:, 8:16].all()
    assert int(differs.sum()) == 64


def test_it_has_a_norm_where_the_backbone_has_none_at_its_end() -> None:
    assert isinstance(PixelHead(vit()).norm, nn.Identity)
    assert isinstance(PixelHead(vit(global_pool="avg")).norm, nn.LayerNorm)


def test_half_precision_gives_images_in_float32() -> None:
    head = PixelHead(vit())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(torch.zeros(1, 7, 16)).dtype == torch.float32


def test_images_that_are_no_whole_number_of_patches_are_refused() -> None:
    shape = {"img_size": 20, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    adapter = adapt(build_backbone("eva02_tiny_patch14_224", shape), (20, 20))
    with pytest.raises(ConfigError, match=r"images of 20x20 are no whole number of the \d+x\d+ pixels that a final"):
        PixelHead(adapter)
