"""What methods share that ask where a patch comes from: the place on the grid is a class, and nothing may give it away.

Source: Zhai et al., "Position Prediction as an Effective Pretraining Strategy", ICML 2022, arXiv:2207.07611.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.models.adapters.base import TokenAdapter


def share_placed(scores: Tensor, ids: Tensor) -> Tensor:
    """Share of the patches whose own place has the highest score, without a gradient.

    Args:
        scores: [B, N, L], of each place for each patch.
        ids: int64 [B, N], where the patches come from.
    """
    return (scores.detach().argmax(dim=-1) == ids).float().mean()


@torch.no_grad()
def check_patches_alone(adapter: TokenAdapter) -> None:
    """Refuse a backbone whose patches say where they are before any position is added; embeds one image.

    Zeros around an image show its edge, and patches that overlap show who is next to whom.

    Raises:
        ConfigError: The embedding of a patch depends on more than its own pixels.
    """
    weight = next(adapter.backbone.parameters())
    image = torch.ones(1, 3, *adapter.size, device=weight.device, dtype=weight.dtype)
    image[:, :, : adapter.patch_size[0], : adapter.patch_size[1]] = 2.0
    others = adapter.embed(image)[0, 1:]
    # All are the same sum but for the order in which it is taken; what overlaps differs by far more.
    if not torch.allclose(others, others[:1].expand_as(others), rtol=1e-3, atol=1e-3):
        raise ConfigError(
            f"the patches of this {type(adapter.backbone).__name__} are embedded with pixels around them, which gives "
            "their positions away; choose a backbone that cuts its images into separate patches (vit_tiny_patch16_224)"
        )
