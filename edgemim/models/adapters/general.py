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
        self._levels = getattr(backbone, "feature_info", None) or []
        if not self._levels or not hasattr(backbone, "forward_intermediates"):
            self.abilities = ("full",)
        elif len({(level["num_chs"], level.get("reduction")) for level in self._levels}) == 1:
            self.abilities = (*self.abilities, "uniform")
        self.depth = len(self._levels)
        height, width = size or input_size(backbone, {})
        self.size = (int(height), int(width))
        found, level = self._look()
        self.output_grid = self.grid = self._grid_of(found, level)
        self._left_out = 0 if found.dim() == 4 else found.shape[1] - self.grid[0] * self.grid[1]
        self.width = self._flat(found).shape[-1]
        self.patch_size = self.stride

    @property
    def stride(self) -> tuple[int, int]:
        """What timm says of its last level where that fits: 299 pixels at stride 32 give 10 places, not 9.3."""
        said = int(self._levels[-1].get("reduction", 0)) if self._levels else 0
        axes = zip(self.size, self.output_grid, strict=True)
        if said and all(places in (pixels // said, -(-pixels // said)) for pixels, places in axes):
            return said, said
        return super().stride

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
            return features[:, self._left_out :]
        return features.flatten(1, 2) if self._channels_last else features.flatten(2).transpose(1, 2)

    @property
    def _channels_last(self) -> bool:
        return getattr(self.model, "output_fmt", "NCHW") == "NHWC"

    @torch.no_grad()
    def _look(self) -> tuple[Tensor, tuple[int, int] | None]:
        """What timm makes of a black image, and the grid of its last level; running statistics stay as they are."""
        name, training = type(self.backbone).__name__, self.backbone.training
        parameter = next(self.backbone.parameters())
        image = torch.zeros(1, 3, *self.size, device=parameter.device, dtype=parameter.dtype)
        maps: list[Tensor] = []
        try:
            if "blocks" in self.abilities:
                found, maps = self.model.eval().forward_intermediates(
                    image, indices=[self.depth - 1], output_fmt="NCHW"
                )
            else:
                found = self.model.eval().forward_features(image)
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            raise ConfigError(f"{name} does not run on images of {self.size[0]}x{self.size[1]}: {reason}") from error
        finally:
            self.backbone.train(training)
        if not isinstance(found, Tensor) or found.dim() not in (3, 4):
            raise ConfigError(f"{name} gives no tokens and no feature map; choose another backbone")
        return found, (maps[0].shape[2], maps[0].shape[3]) if maps else None

    def _grid_of(self, features: Tensor, level: tuple[int, int] | None) -> tuple[int, int]:
        """Height and width of the features' grid: a map's own; that of the last level, or the image's shape, of tokens.

        A class token that timm does not count among `num_prefix_tokens` may come before the tokens of a level.
        """
        if features.dim() == 4:
            height, width = features.shape[1:3] if self._channels_last else features.shape[2:]
            return int(height), int(width)
        tokens, prefix = features.shape[1], getattr(self.model, "num_prefix_tokens", None)
        if level is None:
            patches = tokens - int(prefix or 0)
            rows = max(1, round((patches * self.size[0] / self.size[1]) ** 0.5))
            level = (rows, patches // rows)
        if tokens - level[0] * level[1] not in ((0, 1) if prefix is None else (int(prefix),)):
            raise ConfigError(
                f"{type(self.backbone).__name__} ends in a sequence of length {tokens}, which is no grid of patches; "
                "choose another backbone"
            )
        return level

    def width_of(self, block: int) -> int:
        return int(self._levels[block]["num_chs"])

    def initialise(self) -> None:
        """timm's own initial weights stay."""
