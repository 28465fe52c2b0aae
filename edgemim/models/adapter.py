"""How a MIM method drives a backbone: which patches go in, which block outputs come out.

The adapter owns no weights: everything it computes uses the timm model, and the model is what ships.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from edgemim.errors import ConfigError

if TYPE_CHECKING:
    from edgemim.models.mask_plan import MaskPlan


@dataclass(frozen=True)
class Features:
    """What came out of a backbone.

    Attributes:
        tokens: [B, P + K, D] after the final norm (P prefix tokens, K patches), or None when the pass was
            stopped before the last block.
        taps: Block index (0-based) to [B, P + K, D], the tokens after that block, before any final norm.
    """

    tokens: Tensor | None
    taps: dict[int, Tensor] = field(default_factory=dict)


class BackboneAdapter(ABC):
    """Runs one timm model in the modes that its family can do.

    Attributes:
        backbone: The timm model, without a head.
        modes: Those of `full`, `visible` and `mask_token` that it can do.
        grid: Height and width of its patch grid.
        patch_size: Height and width of a patch in pixels.
        width: Channels of a token.
        depth: Number of blocks.
        num_prefix: Class and register tokens in front of the patches.
    """

    modes: tuple[str, ...]

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self.grid: tuple[int, int] = (0, 0)
        self.patch_size: tuple[int, int] = (0, 0)
        self.width = 0
        self.depth = 0
        self.num_prefix = 0

    @abstractmethod
    def forward(
        self,
        images: Tensor,
        plan: MaskPlan | None = None,
        *,
        mode: str = "full",
        mask_token: Tensor | None = None,
        taps: Collection[int] = (),
        stop_after: int | None = None,
    ) -> Features:
        """Run the backbone.

        Args:
            images: [B, 3, H, W], normalised.
            plan: Needed by the modes `visible` and `mask_token`.
            mode: `full`: all patches. `visible`: only the plan's visible ones. `mask_token`: all, the
                hidden ones replaced by `mask_token` before the positions are added.
            mask_token: [D], for the mode of that name.
            taps: Blocks whose outputs are wanted.
            stop_after: Last block to run; the final norm is then skipped.
        """

    @abstractmethod
    def initialise(self) -> None:
        """Give a fresh backbone the weights that MAE starts from."""

    def block_at(self, share: float) -> int:
        """Index of the last block within the first `share` of the depth: 0.75 gives 8 of 12, 17 of 24."""
        return max(0, round(self.depth * share) - 1)

    def check_mode(self, mode: str, wanted_by: str) -> None:
        """Refuse a mode that this backbone cannot do.

        Raises:
            ConfigError: Names the modes that it can do.
        """
        if mode not in self.modes:
            name = type(self.backbone).__name__
            raise ConfigError(f"{wanted_by} needs a backbone with the mode {mode!r}; {name} can do {list(self.modes)}")


def adapt(backbone: nn.Module) -> BackboneAdapter:
    """The adapter for a timm model.

    Raises:
        ConfigError: No adapter knows this family.
    """
    from edgemim.models.vit import ViTAdapter

    if ViTAdapter.fits(backbone):
        return ViTAdapter(backbone)
    raise ConfigError(
        f"{type(backbone).__name__} is not a plain vision transformer; masked pretraining needs one such as "
        "vit_tiny_patch16_224 (edgemim list backbones --filter 'vit_*')"
    )
