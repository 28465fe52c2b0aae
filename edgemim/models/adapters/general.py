"""The adapter for every other timm model: whole images only, as timm's own forward passes run them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.adapters.base import BackboneAdapter, Features
from edgemim.models.build import input_size
from edgemim.models.mask_plan import MaskPlan


class GeneralAdapter(BackboneAdapter):
    """Runs a convnet, a hybrid or a transformer that has no adapter of its own.

    Class and register tokens are left out (`num_prefix` is 0); blocks are timm's feature levels: stages of a
    convnet, blocks of a transformer. Grid and width are found by running one black image.

    Args:
        backbone: A timm model.
        size: Height and width of its images; None: timm's own size.

    Raises:
        ConfigError: It does not take images of that size, or gives no grid of features.
    """

    abilities: tuple[str, ...] = ("full", "blocks")

    def __init__(self, backbone: nn.Module, size: tuple[int, int] | None = None) -> None:
        super().__init__(backbone)
        # Any: timm's attributes carry no types.
        self.model = cast(Any, backbone)
        levels = getattr(backbone, "feature_info", None) or []
        if not levels or not hasattr(backbone, "forward_intermediates"):
            self.abilities = ("full",)
        self._widths = [int(level["num_chs"]) for level in levels]
        self.depth = len(self._widths)
        height, width = size or input_size(backbone, {})
        self.size = (int(height), int(width))
        found = self._look()
        self.width = found.shape[-1]
        self.output_grid = self.grid = self._grid_of(found.shape[1])
        self.patch_size = self.stride

    def forward(
        self,
        images: Tensor,
        plan: MaskPlan | None = None,
        *,
        mode: str = "full",
        mask_token: Tensor | None = None,
        taps: Collection[int] = (),
        qkv: Collection[int] = (),
        stop_early: bool = False,
    ) -> Features:
        if not taps:
            return Features(None if stop_early else self._flat(self.model.forward_features(images)))
        wanted = sorted(taps)
        found = self.model.forward_intermediates(
            images, indices=wanted, stop_early=stop_early, output_fmt="NCHW", intermediates_only=stop_early
        )
        final, maps = (None, found) if stop_early else found
        tapped = {block: m.flatten(2).transpose(1, 2) for block, m in zip(wanted, maps, strict=True)}
        return Features(None if final is None else self._flat(final), tapped)

    def _flat(self, features: Tensor) -> Tensor:
        """Patch tokens [B, N, D] of what timm calls the features: tokens, or a map with channels first or last."""
        if features.dim() == 3:
            return features[:, int(getattr(self.model, "num_prefix_tokens", 0)) :]
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return features.flatten(1, 2)
        return features.flatten(2).transpose(1, 2)

    @torch.no_grad()
    def _look(self) -> Tensor:
        """Final tokens [1, N, D] of a black image; running statistics stay as they are."""
        name, training = type(self.backbone).__name__, self.backbone.training
        parameter = next(self.backbone.parameters())
        image = torch.zeros(1, 3, *self.size, device=parameter.device, dtype=parameter.dtype)
        try:
            found = self.model.eval().forward_features(image)
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            raise ConfigError(f"{name} does not run on images of {self.size[0]}x{self.size[1]}: {reason}") from error
        finally:
            self.backbone.train(training)
        if not isinstance(found, Tensor) or found.dim() not in (3, 4):
            raise ConfigError(f"{name} gives no tokens and no feature map; choose another backbone")
        return self._flat(found)

    def _grid_of(self, tokens: int) -> tuple[int, int]:
        """Height and width of the grid of so many tokens, in the shape of the image."""
        rows = max(1, round((tokens * self.size[0] / self.size[1]) ** 0.5))
        if rows * (tokens // rows) != tokens:
            raise ConfigError(f"{type(self.backbone).__name__} gives {tokens} tokens, which are no grid")
        return rows, tokens // rows

    def width_of(self, block: int) -> int:
        return self._widths[block]

    def initialise(self) -> None:
        """timm's own initial weights stay."""
