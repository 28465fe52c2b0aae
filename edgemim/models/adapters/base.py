"""How a method drives a backbone: which patches go in, which tokens, queries, keys and values come out.

The adapter owns no weights: everything it computes uses the timm model, and the model is what ships.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.mask_plan import MaskPlan


@dataclass(frozen=True)
class QKV:
    """Queries, keys and values of one attention layer, each [B, heads, P + K, d], after any norm of theirs."""

    queries: Tensor
    keys: Tensor
    values: Tensor

    def logits(self) -> Tensor:
        """float32 [B, heads, P + K, P + K]: queries times keys over the root of the head width, before the softmax."""
        # Autocast would round the products, and a softmax turns a rounding of its logits into a factor.
        with torch.autocast(self.queries.device.type, enabled=False):
            queries, keys = self.queries.float(), self.keys.float()
            scaled: Tensor = queries @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5
        return scaled


# What a layer's attention gives for its number and its queries, keys and values: [B, heads, N, d] before the
# projection, where N is the number of queries.
Attend = Callable[[int, QKV], Tensor]


@dataclass(frozen=True)
class Features:
    """What came out of a backbone.

    Attributes:
        tokens: [B, P + K, D] after the final norm (P prefix tokens, K patches), or None when the pass was
            stopped before the end.
        taps: Block index (0-based) to [B, P + K, D], the tokens after that block, before any final norm.
        qkv: Block index to the queries, keys and values of its attention.
    """

    tokens: Tensor | None
    taps: dict[int, Tensor] = field(default_factory=dict)
    qkv: dict[int, QKV] = field(default_factory=dict)

    @property
    def final(self) -> Tensor:
        """The tokens of a pass that went to the end."""
        assert self.tokens is not None
        return self.tokens


class BackboneAdapter(ABC):
    """Runs one timm model in the ways that its family can do.

    Attributes:
        backbone: The timm model, with or without a head; the head is never run here.
        abilities: Modes of `forward` (`full`, `visible`, `mask_token`, `sparse`), `blocks` where outputs of single
            blocks can be had, `uniform` where these all have one grid and one width, `qkv` where queries, keys and
            values can be had, and `tokens` of a `TokenAdapter`.
        size: Height and width of its images in pixels.
        grid: Height and width of the patch grid on which a mask is drawn, in patches.
        patch_size: Height and width in pixels of one of these patches.
        output_grid: Height and width of the grid of its final tokens; smaller than `grid` in a staged backbone.
        width: Channels of a final token.
        depth: Number of blocks.
        num_prefix: Class and register tokens in front of the patches.
    """

    abilities: tuple[str, ...]

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self.size: tuple[int, int] = (0, 0)
        self.grid: tuple[int, int] = (0, 0)
        self.patch_size: tuple[int, int] = (0, 0)
        self.output_grid: tuple[int, int] = (0, 0)
        self.width = 0
        self.depth = 0
        self.num_prefix = 0

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels that one final token stands for."""
        return self.size[0] // self.output_grid[0], self.size[1] // self.output_grid[1]

    @abstractmethod
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
        """Run the backbone.

        Args:
            images: [B, 3, H, W], normalised.
            plan: Needed by the modes `visible`, `mask_token` and `sparse`.
            mode: `full`: all patches. `visible`: only the plan's visible ones. `mask_token`: all, those that
                are not visible replaced by `mask_token` before the positions are added. `sparse`: a convnet on the
                plan's visible cells alone.
            mask_token: [D], for the mode of that name.
            taps: Blocks whose output tokens are wanted.
            qkv: Blocks whose queries, keys and values are wanted.
            stop_early: Run no further than `taps` and `qkv` ask for; there are no final tokens then.
        """

    @abstractmethod
    def initialise(self) -> None:
        """Give a fresh backbone the weights that masked pretraining starts from."""

    @property
    def final_norm(self) -> nn.Module | None:
        """What the tokens go through after the last block; None where that is nothing, or is not known."""
        return None

    def keep_computed(self) -> None:
        """Hold fixed, in a backbone that goes on, the tables that `initialise` would compute and hold fixed."""
        return

    def width_of(self, block: int) -> int:
        """Channels of a token after `block`."""
        return self.width

    def heads_of(self, block: int) -> int:
        """Heads of the attention of `block`.

        Raises:
            ConfigError: The family does not give its queries, keys and values.
        """
        raise ConfigError(f"{type(self.backbone).__name__} has no attention heads that can be read")

    def resize(self, size: tuple[int, int]) -> BackboneAdapter:
        """The adapter of the same model for images of another size, its positions resampled.

        Raises:
            ConfigError: The model cannot take that size.
        """
        from edgemim.models.adapters import adapt

        name = type(self.backbone).__name__
        resample = getattr(self.backbone, "set_input_size", None)
        if resample is None and self.backbone.pretrained_cfg.get("fixed_input_size"):  # type: ignore[operator,union-attr]
            raise ConfigError(f"{name} takes images of {self.size[0]}x{self.size[1]} only, not {size[0]}x{size[1]}")
        if resample is not None:
            try:
                with warnings.catch_warnings():
                    # How timm interpolates tables of relative positions; nothing that a user could act on.
                    warnings.simplefilter("ignore", UserWarning)
                    resample(img_size=size)
            except (AssertionError, ValueError, RuntimeError) as error:
                raise ConfigError(f"{name} cannot take images of {size[0]}x{size[1]}: {error}") from error
        return adapt(self.backbone, size)

    def block_at(self, share: float) -> int:
        """Index of the last block within the first `share` of the depth: 0.75 gives 8 of 12, 17 of 24."""
        return max(0, round(self.depth * share) - 1)


class TokenAdapter(BackboneAdapter):
    """Runs a backbone in three parts, for methods that change the tokens in between, or the attention."""

    @abstractmethod
    def embed(self, images: Tensor, ids: Tensor | None = None) -> Tensor:
        """What patches say, without their positions: [B, L, D], or [B, K, D] of the patches `ids` (int64 [B, K])."""

    @abstractmethod
    def positions(self, ids: Tensor | None = None) -> Tensor | None:
        """Positions of all patches, [1, L, D], or of the patches `ids` (int64 [B, K]); None of a model without."""

    @abstractmethod
    def with_prefix(self, patches: Tensor) -> Tensor:
        """Tokens [B, P + N, D] as the first block takes them, of patches [B, N, D] with their positions added."""

    @abstractmethod
    def run(
        self,
        tokens: Tensor,
        *,
        taps: Collection[int] = (),
        qkv: Collection[int] = (),
        stop_early: bool = False,
        attend: Attend | None = None,
    ) -> Features:
        """Run the blocks on tokens [B, P + N, D].

        Args:
            tokens: As `with_prefix` gives them.
            taps, qkv, stop_early: See `forward`.
            attend: Used by every block in place of its own attention, where the adapter has the ability `tokens`.
        """


def check_divides(size: tuple[int, int], patch_size: tuple[int, int]) -> None:
    """Refuse images whose height or width is no whole number of patches.

    Raises:
        ConfigError: Says what to choose.
    """
    if size[0] % patch_size[0] or size[1] % patch_size[1]:
        raise ConfigError(
            f"images of {size[0]}x{size[1]} are no whole number of {patch_size[0]}x{patch_size[1]} patches; "
            "choose backbone.img_size as a multiple of backbone.patch_size"
        )
