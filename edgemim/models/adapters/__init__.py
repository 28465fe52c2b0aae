"""How methods drive timm's families: one file per family, and which of them fits a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from edgemim.models.adapters.base import BackboneAdapter


def adapt(backbone: nn.Module, size: tuple[int, int] | None = None) -> BackboneAdapter:
    """The adapter for a timm model: that of its family, else one that runs whole images only.

    Args:
        backbone: A timm model.
        size: Height and width in pixels of its images, for models that take any; None: timm's own size.

    Raises:
        ConfigError: The model cannot be driven at all; says why.
    """
    from edgemim.models.adapters.beit import BeitAdapter
    from edgemim.models.adapters.conv import ConvAdapter
    from edgemim.models.adapters.general import GeneralAdapter
    from edgemim.models.adapters.swin import SwinAdapter
    from edgemim.models.adapters.vit import ViTAdapter

    for family in (ViTAdapter, BeitAdapter, SwinAdapter):
        if family.fits(backbone):
            return family(backbone)
    return (ConvAdapter if ConvAdapter.fits(backbone) else GeneralAdapter)(backbone, size)
