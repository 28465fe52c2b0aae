"""Merge the layers that exist only for training: parallel branches, and batch norms behind a convolution or a linear.

FastViT, MobileOne, RepVGG, RepViT and others train with several branches whose sum is one convolution. timm's own
layers know how to merge themselves; what ships is the merged model.
"""

from __future__ import annotations

from timm.utils import reparameterize_model
from torch import nn

# What timm's layers call it.
_VERBS = ("fuse", "reparameterize", "switch_to_deploy")


def reparameterise(model: nn.Module) -> nn.Module:
    """The model as it is deployed: the same function up to the order of additions.

    Args:
        model: In eval mode; it stays as it is.

    Returns:
        A merged copy, or `model` itself where no layer of it can be merged.
    """
    children = (module for name, module in model.named_modules() if name)
    if not any(callable(getattr(child, verb, None)) for child in children for verb in _VERBS):
        return model
    # timm makes the merged layers in training mode.
    merged: nn.Module = reparameterize_model(model, inplace=False)
    return merged.eval()
