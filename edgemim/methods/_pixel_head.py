"""From the tokens of a backbone to an image: an MLP for each patch, then a transposed convolution.

Source: Atito et al., "GMML is All you Need", arXiv:2205.14986; released code of GMML and of SiT.
Differs: a backbone of which no final norm is known gets one of the head's own; weights start Xavier-uniform instead of
    from a normal of deviation 0.02, the convolution as torch starts it.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.initialise import initialise_linear

_LAYERS = 3


class PixelHead(nn.Module):
    """Three linear layers with a GELU each, then the pixels of each patch.

    Args:
        adapter: Of the backbone.

    Raises:
        ConfigError: The images are no whole number of patches.
    """

    def __init__(self, adapter: BackboneAdapter) -> None:
        super().__init__()
        self.num_prefix = adapter.num_prefix
        self.grid = adapter.output_grid
        _check_whole(adapter)
        width = adapter.width
        self.norm = nn.LayerNorm(width, eps=1e-6) if adapter.final_norm is None else nn.Identity()
        self.mlp = nn.Sequential(*(layer for _ in range(_LAYERS) for layer in (nn.Linear(width, width), nn.GELU())))
        self.to_pixels = nn.ConvTranspose2d(width, 3, adapter.stride, adapter.stride)
        self.apply(initialise_linear)

    def forward(self, tokens: Tensor) -> Tensor:
        """Predicted images, float32 [B, 3, H, W].

        Args:
            tokens: [B, P + N, D], after the backbone's final norm where it has one.
        """
        patches = self.mlp(self.norm(tokens[:, self.num_prefix :]))
        images: Tensor = self.to_pixels(patches.transpose(1, 2).unflatten(2, self.grid))
        return images.float()


def _check_whole(adapter: BackboneAdapter) -> None:
    (height, width), stride = adapter.size, adapter.stride
    if (adapter.output_grid[0] * stride[0], adapter.output_grid[1] * stride[1]) != adapter.size:
        raise ConfigError(
            f"images of {height}x{width} are no whole number of the {stride[0]}x{stride[1]} pixels that a final token "
            f"of {type(adapter.backbone).__name__} stands for; choose another backbone.img_size"
        )
