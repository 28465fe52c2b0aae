"""The adapter for timm's convnets: whole images as timm runs them, or visible cells only."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from timm.layers import PatchEmbed
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.adapters.base import Features
from edgemim.models.adapters.general import GeneralAdapter
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.sparse.check import check_layers
from edgemim.models.sparse.context import sparse

_ATTENDS = re.compile("attn|attention", re.IGNORECASE)
# Of the levels that a decoder is given: finer ones are large and say little.
_FINEST, _MOST = 4, 4


@dataclass(frozen=True, kw_only=True)
class Level:
    """A level of features.

    Attributes:
        block: Its index among timm's levels.
        stride: Side in pixels of one of its places.
        width: Channels.
    """

    block: int
    stride: int
    width: int


def attending(backbone: nn.Module) -> str:
    """Path and type of the first module that attends, or makes a sequence of patches; empty where none does."""
    for path, module in backbone.named_modules():
        if isinstance(module, PatchEmbed) or _ATTENDS.search(type(module).__name__):
            return f"{path!r} ({type(module).__name__})"
    return ""


class ConvAdapter(GeneralAdapter):
    """Runs a convnet; see `GeneralAdapter`, from which it differs by the mode `sparse` alone.

    In that mode the plan's cells are the places of the last level, and cells that are not visible hold nothing on the
    whole way: tokens of a tap are [B, H * W, D] of their own level as ever, with zeros in those cells.
    """

    abilities: tuple[str, ...] = ("full", "blocks", "sparse")

    @staticmethod
    def fits(backbone: nn.Module) -> bool:
        """Whether this is a convnet with levels of features: nothing attends, no patches become a sequence."""
        if not getattr(backbone, "feature_info", None) or not hasattr(backbone, "forward_intermediates"):
            return False
        return not attending(backbone) and any(isinstance(m, nn.Conv2d) for m in backbone.modules())

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
        if mode != "sparse":
            return super().forward(images, taps=taps, stop_early=stop_early)
        assert plan is not None
        with sparse(self.backbone, plan) as active:
            return super().forward(active.clear(images), taps=taps, stop_early=stop_early)

    def check_sparse(self) -> None:
        """Refuse, before a run has a folder, what cannot be run in the mode `sparse`.

        Raises:
            ConfigError: The images are no whole number of cells, or a module cannot be run on visible cells alone; it
                is named.
        """
        (height, width), (down, across) = self.size, self.stride
        if (self.grid[0] * down, self.grid[1] * across) != self.size:
            raise ConfigError(
                f"images of {height}x{width} are no whole number of the {down}x{across} pixels that a place of the "
                f"last level of {type(self.backbone).__name__} stands for; choose preprocess.size as a multiple of "
                f"{down}"
            )
        check_layers(self.backbone, self.stride, [level.block for level in self.levels])

    @property
    def levels(self) -> tuple[Level, ...]:
        """Levels for a decoder, finest first: the deepest one of each stride from 4 on, the last four of these.

        Raises:
            ConfigError: Their strides are no powers of two, the last of them not that of the cells, or there are none.
        """
        deepest = {int(info.get("reduction", 0)): block for block, info in enumerate(self._levels)}
        strides = sorted(stride for stride in deepest if stride >= _FINEST)[-_MOST:]
        if not strides or self.stride != (strides[-1], strides[-1]) or any(s & (s - 1) for s in strides):
            raise ConfigError(
                f"the levels of {type(self.backbone).__name__} lie at strides {', '.join(map(str, sorted(deepest)))}, "
                f"its last places at {self.stride[0]}x{self.stride[1]}; predicting hidden cells needs strides that are "
                "powers of two, from 4 on, up to that of the last places; choose another backbone"
            )
        return tuple(Level(block=deepest[s], stride=s, width=self.width_of(deepest[s])) for s in strides)
