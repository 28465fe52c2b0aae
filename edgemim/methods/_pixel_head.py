"""From the tokens of a few blocks to an image: an MLP for each patch, then a transposed convolution.

Source: Atito et al., "GMML is All you Need", arXiv:2205.14986; released code of GMML.
Differs: inferred: the norm of the averaged tokens is the head's own; the blocks of a backbone that has not 12 are those
    at the same shares of its depth, each once; weights start Xavier-uniform, the convolution as torch starts it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.initialise import initialise_linear

# Blocks 6, 8, 10 and 12 of 12.
_SHARES = (1 / 2, 2 / 3, 5 / 6, 1.0)
_LAYERS = 3


class PixelHead(nn.Module):
    """Mean of the patch tokens of some blocks, norm, three linear layers with a GELU each, pixels of each patch.

    Args:
        adapter: Of the backbone.

    Attributes:
        blocks: Whose output it takes, ascending; the last is the backbone's last.

    Raises:
        ConfigError: These blocks differ in width or grid, or the images are no whole number of patches.
    """

    def __init__(self, adapter: BackboneAdapter) -> None:
        super().__init__()
        self.blocks = tuple(dict.fromkeys(adapter.block_at(share) for share in _SHARES))
        self.num_prefix = adapter.num_prefix
        self.grid = adapter.output_grid
        _check_alike(adapter, self.blocks)
        _check_whole(adapter)
        width = adapter.width
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(*(layer for _ in range(_LAYERS) for layer in (nn.Linear(width, width), nn.GELU())))
        self.to_pixels = nn.ConvTranspose2d(width, 3, adapter.stride, adapter.stride)
        self.apply(initialise_linear)

    def forward(self, taps: Mapping[int, Tensor]) -> Tensor:
        """Predicted images, float32 [B, 3, H, W].

        Args:
            taps: [B, P + N, D], the tokens after each of `blocks`.
        """
        mean = torch.stack([taps[block] for block in self.blocks]).mean(dim=0)
        tokens = self.mlp(self.norm(mean[:, self.num_prefix :]))
        images: Tensor = self.to_pixels(tokens.transpose(1, 2).unflatten(2, self.grid))
        return images.float()


@torch.no_grad()
def _check_alike(adapter: BackboneAdapter, blocks: tuple[int, ...]) -> None:
    """Refuse blocks whose tokens cannot be averaged (stages of a pyramid); runs one black image."""
    backbone = adapter.backbone
    training, parameter = backbone.training, next(backbone.parameters())
    image = torch.zeros(1, 3, *adapter.size, device=parameter.device, dtype=parameter.dtype)
    backbone.eval()  # norms of a batch would take the image into their statistics
    found = adapter.forward(image, taps=blocks, stop_early=True).taps
    backbone.train(training)
    wanted = (1, adapter.num_prefix + adapter.output_grid[0] * adapter.output_grid[1], adapter.width)
    wrong = [block for block in blocks if found[block].shape != wanted]
    if wrong:
        raise ConfigError(
            f"{type(backbone).__name__} has other tokens after block {wrong[0]} than after its last, {blocks[-1]}, and "
            "their mean is wanted; choose a backbone without stages (ViT, BEiT)"
        )


def _check_whole(adapter: BackboneAdapter) -> None:
    (height, width), stride = adapter.size, adapter.stride
    if (adapter.output_grid[0] * stride[0], adapter.output_grid[1] * stride[1]) != adapter.size:
        raise ConfigError(
            f"images of {height}x{width} are no whole number of the {stride[0]}x{stride[1]} pixels that a final token "
            f"of {type(adapter.backbone).__name__} stands for; choose another backbone.img_size"
        )
