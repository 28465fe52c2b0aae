"""Fixed 2-D sine and cosine position tables.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377, appendix A;
after Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3.5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgemim.errors import ConfigError


def sincos_positions(width: int, grid: tuple[int, int], prefix: int = 0) -> Tensor:
    """Table of positions: float32 [prefix + H * W, width].

    The first half of the channels encodes the column, the second half the row; each half is the sines of
    all frequencies followed by their cosines. Prefix rows (class and register tokens) are zero.

    Args:
        width: Channels, a multiple of 4.
        grid: Height and width of the patch grid.
        prefix: Rows of zeros in front.

    Raises:
        ConfigError: `width` is not a multiple of 4.
    """
    if width % 4:
        raise ConfigError(f"sine and cosine positions need a width that is a multiple of 4; got {width}")
    rows, columns = torch.meshgrid(
        torch.arange(grid[0], dtype=torch.float64), torch.arange(grid[1], dtype=torch.float64), indexing="ij"
    )
    table = torch.cat([_encode(columns.flatten(), width // 2), _encode(rows.flatten(), width // 2)], dim=1)
    return torch.cat([torch.zeros(prefix, width, dtype=torch.float64), table]).float()


def _encode(positions: Tensor, channels: int) -> Tensor:
    frequencies = 10000.0 ** -(torch.arange(channels // 2, dtype=torch.float64) / (channels / 2))
    angles = positions[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
