"""Initial weights that the MAE family shares.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377, appendix A.
"""

from __future__ import annotations

from torch import nn


def initialise_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for a linear layer, ones and zeros for a LayerNorm."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
