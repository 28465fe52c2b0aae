"""What CAE and CAE v2 share: latents of masked patches, guessed from the visible ones and held to the encoder's own.

Source: Chen et al., "Context Autoencoder for Self-Supervised Representation Learning", IJCV 2024, arXiv:2202.03026,
    section 3.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import DropPath, LayerNorm
from timm.models.vision_transformer import LayerScale
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.losses.mse import mse
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.initialise import initialise_linear
from edgemim.models.mask_plan import DROPPED, MASKED, MaskPlan
from edgemim.models.masked_decoder import MaskedDecoder
from edgemim.models.regressor import LatentRegressor


class LatentPrediction(nn.Module):
    """The regressor and the decoder behind an encoder, and how the encoder is asked.

    The blocks of both have the layer scale and the drop path of the encoder's.

    Args:
        adapter: Of the encoder.
        settings: With `regressor_depth`, `decoder_width`, `decoder_depth` and `decoder_heads`.
        outputs: Numbers that the decoder predicts for each patch.

    Raises:
        ConfigError: The width is not a multiple of the heads, or of 4.
    """

    def __init__(self, adapter: BackboneAdapter, settings: Any, outputs: int) -> None:
        super().__init__()
        width, heads = settings.decoder_width or adapter.width, settings.decoder_heads
        if width % heads:
            raise ConfigError(
                f"method.decoder_heads {heads} does not divide the {width} channels of regressor and decoder; choose "
                "other heads, or another method.decoder_width"
            )
        self.adapter = adapter
        # A guess is normed, and is held to latents that are. A ViT that averages its tokens norms the average alone.
        self.norm = LayerNorm(adapter.width) if adapter.final_norm is None else nn.Identity()
        same = width == adapter.width
        self.project = nn.Identity() if same else nn.Sequential(nn.Linear(adapter.width, width), LayerNorm(width))
        self.project.apply(initialise_linear)
        scale, rate = _of_blocks(adapter)
        shape: dict[str, Any] = {"heads": heads, "layer_scale": scale, "drop_path": rate}
        self.regressor = LatentRegressor(width, adapter.grid, depth=settings.regressor_depth, **shape)
        self.decoder = MaskedDecoder(width, adapter.grid, outputs, depth=settings.decoder_depth, **shape)

    def encode(self, images: Tensor, plan: MaskPlan) -> Tensor:
        """Latents of the visible patches alone, [B, P + K, width], prefix first."""
        latents: Tensor = self.project(self.norm(self.adapter.forward(images, plan, mode="visible").final))
        return latents

    def regress(self, latents: Tensor, plan: MaskPlan) -> Tensor:
        """Latents of the masked patches, [B, M, width], guessed from what `encode` gave."""
        guessed: Tensor = self.regressor(latents[:, self.adapter.num_prefix :], plan)
        return guessed

    @torch.no_grad()
    def target(self, images: Tensor, plan: MaskPlan) -> Tensor:
        """Latents [B, M, width] that the encoder, with the weights of this step, gives the masked patches alone."""
        return self.encode(images, complement(plan))[:, self.adapter.num_prefix :]

    def alignment(self, guessed: Tensor, images: Tensor, plan: MaskPlan) -> Tensor:
        """Mean squared error of what `regress` gave; to be called behind `encode`.

        Autocast keeps the weights that it has rounded: rounded first where no gradient is wanted, they would not learn.
        """
        return mse(student=guessed, teacher=self.target(images, plan))


def _of_blocks(adapter: BackboneAdapter) -> tuple[float | None, float]:
    """How large the factors of the encoder's layer scale are, None without; and the drop path rate of its last block.

    The factors are those of the first block, on average: a fresh encoder has one number for all.
    """
    modules = list(adapter.backbone.modules())
    scales = (float(module.gamma.detach().abs().mean()) for module in modules if isinstance(module, LayerScale))
    rates = [float(module.drop_prob) for module in modules if isinstance(module, DropPath)]
    return next(scales, None), max(rates, default=0.0)


def complement(plan: MaskPlan) -> MaskPlan:
    """The plan in which masked patches are visible and visible ones masked; dropped ones stay dropped."""
    assert plan.counts is not None
    visible, masked, dropped = plan.counts
    role = torch.where(plan.role == DROPPED, plan.role, MASKED - plan.role)
    return MaskPlan(role, plan.grid, (masked, visible, dropped))


def check_prediction(settings: Any) -> None:
    """Refuse what no regressor and decoder can be built from.

    Raises:
        ConfigError: Names the setting.
    """
    for name, least in {"regressor_depth": 1, "decoder_width": 0, "decoder_depth": 0, "decoder_heads": 1}.items():
        if getattr(settings, name) < least:
            raise ConfigError(f"method.{name} must be at least {least}; got {getattr(settings, name)}")
    if settings.alignment_weight < 0:
        raise ConfigError(f"method.alignment_weight must not be negative; got {settings.alignment_weight}")
