"""DropPos: most patches are hidden, most of the rest lose their positions, and a light decoder finds those again.

Source: Wang et al., "DropPos: Pre-Training Vision Transformers by Reconstructing Dropped Positions", NeurIPS 2023,
    arXiv:2309.03576.
Command: pretrain
Needs: a plain ViT with positions and separate patches
Differs: targets of a patch sum to one (the released code divides by the sums of the columns instead of the rows, which
    near the edge of the grid are others), and their width shrinks with every step instead of every epoch. A backbone
    without a class token weighs patches by their likeness to the mean of all; that is inferred. The second loss of the
    paper, on pixels, is not built. The accuracy that is logged counts patches alike. The released default cuts each
    gradient at the norm 5, the recipe cuts none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._places import check_patches_alone, share_placed
from edgemim.methods._teacher_view import summary
from edgemim.models.adapters.base import BackboneAdapter, TokenAdapter
from edgemim.models.decoder_block import DecoderBlock
from edgemim.models.initialise import initialise_linear
from edgemim.models.mask_plan import MaskPlan, gather_tokens
from edgemim.models.teachers import Teacher

# Far below any width at which a second place gets a share that float32 can hold.
_NARROWEST = 1e-6


@dataclass(frozen=True, kw_only=True)
class DropPosSettings:
    """Settings of `droppos`; the defaults are those of the released command.

    Args:
        decoder_width, decoder_depth, decoder_heads: Of the decoder.
        drop_ratio: Share of the visible patches that lose their position, in (0, 1]; rounded up.
        sigma: Width of the targets at the start, in patches; it falls to 0 with the steps. 0: one place alone.
        temperature: Of the weights; the higher, the more alike they are.
    """

    decoder_width: int = 512
    decoder_depth: int = 2
    decoder_heads: int = 16
    drop_ratio: float = 0.75
    sigma: float = 1.0
    temperature: float = 0.1

    def __post_init__(self) -> None:
        width, depth, heads = self.decoder_width, self.decoder_depth, self.decoder_heads
        if min(width, depth, heads) < 1:
            raise ConfigError(f"decoder width {width}, depth {depth} and heads {heads} must be at least 1")
        if width % heads:
            raise ConfigError(f"decoder width {width} is not a multiple of its {heads} heads")
        if not 0 < self.drop_ratio <= 1:
            raise ConfigError(f"method.drop_ratio must lie in (0, 1]; got {self.drop_ratio}")
        if self.sigma < 0:
            raise ConfigError(f"method.sigma must not be negative; got {self.sigma}")
        if self.temperature <= 0:
            raise ConfigError(f"method.temperature must be above 0; got {self.temperature}")


class DropPos(Method):
    """See the module.

    Raises:
        ConfigError: The backbone has no positions, or its patches overlap or are padded.
    """

    Settings = DropPosSettings
    student_needs = ("visible", "tokens")
    adapter: TokenAdapter
    apart: Tensor

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        assert isinstance(adapter, TokenAdapter)
        if adapter.positions() is None:
            raise ConfigError(
                f"method 'droppos' takes positions away, and this {type(adapter.backbone).__name__} has none; "
                "leave backbone.pos_embed out"
            )
        check_patches_alone(adapter)
        self.position_token = nn.Parameter(torch.empty(1, 1, adapter.width))
        nn.init.normal_(self.position_token, std=0.02)
        self.decoder = PlaceDecoder(
            adapter.width,
            adapter.grid[0] * adapter.grid[1],
            width=settings.decoder_width,
            depth=settings.decoder_depth,
            heads=settings.decoder_heads,
        )
        self.register_buffer("apart", squared_distances(adapter.grid), persistent=False)

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        plan = plan or self.draw(batch, rng)
        ids, kept = split_visible(plan, self.settings.drop_ratio, rng)
        scores, lost = self.place(batch.images, ids, kept), ids[:, kept:]
        sigma = self.settings.sigma * (1 - batch.epoch_share)
        wanted = F.embedding(lost, soft_places(self.apart, sigma))
        wrong = -(wanted * scores.log_softmax(dim=-1)).sum(dim=-1)
        # After the step's own pass: autocast keeps the weights that it rounds, and those of a pass without gradients
        # would be taken for the one that needs them.
        weights = self.weights(batch.images, ids)[:, kept:]
        step = Step.of({"positions": ((weights * wrong).sum() / weights.sum(), 1.0)})
        return Step(step.loss, step.metrics | {"accuracy": share_placed(scores, lost)})

    def place(self, images: Tensor, ids: Tensor, kept: int) -> Tensor:
        """Scores of all places, float32 [B, K - kept, L], for the patches that have lost theirs.

        Args:
            images: [B, 3, H, W].
            ids: int64 [B, K], the visible patches; the first `kept` of them keep their position.
            kept: How many.
        """
        adapter = self.adapter
        positions = adapter.positions(ids[:, :kept])
        assert positions is not None
        nowhere = self.position_token.expand(len(ids), ids.shape[1] - kept, -1)
        patches = adapter.embed(images, ids) + torch.cat([positions, nowhere], dim=1)
        tokens = adapter.run(adapter.with_prefix(patches)).final
        scores: Tensor = self.decoder(tokens, start=adapter.num_prefix + kept)
        return scores

    @torch.no_grad()
    def weights(self, images: Tensor, ids: Tensor) -> Tensor:
        """How much each of the visible patches `ids` counts, float32 [B, K], adding up to 1 in each image.

        A patch counts more, the more it is like the class token where the backbone sees the whole image.
        """
        adapter = self.adapter
        tokens = adapter.forward(images).final.float()
        patches = gather_tokens(tokens[:, adapter.num_prefix :], ids)
        alike = F.cosine_similarity(summary(adapter, tokens).unsqueeze(1), patches, dim=-1)
        shares: Tensor = (alike / self.settings.temperature).softmax(dim=1)
        return shares


class PlaceDecoder(nn.Module):
    """Linear to `width`, pre-norm blocks, norm, linear to a score of each place; it adds no positions.

    Args:
        encoder_width: Channels of the incoming tokens.
        places: L, of the grid.
        width, depth, heads: Of the blocks; the MLP ratio is 4.
    """

    def __init__(self, encoder_width: int, places: int, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder_width, width)
        self.blocks = nn.ModuleList(DecoderBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.predict = nn.Linear(width, places)
        self.apply(initialise_linear)

    def forward(self, tokens: Tensor, start: int) -> Tensor:
        """float32 [B, N - start, places]: the scores of the tokens [B, N, encoder_width] from `start` on."""
        x = self.embed(tokens)
        *before, last = self.blocks
        for block in before:
            x = block(x)
        scores: Tensor = self.predict(self.norm(last(x, start=start)))
        return scores.float()


def split_visible(plan: MaskPlan, drop_ratio: float, rng: torch.Generator) -> tuple[Tensor, int]:
    """The ids of the visible patches, int64 [B, K]: those that keep their position, then the others; how many keep it.

    Any of them is as likely to lose it as any other; each part is in ascending order.
    """
    visible = plan.keep_ids
    # The ratio is the decimal number that it was written as: 0.9 of 10 is 9, though its binary form is a little more.
    kept = math.floor(visible.shape[1] * (1 - Fraction(str(drop_ratio))))
    drawn = torch.rand(visible.shape, generator=rng, device=rng.device).argsort(dim=1)
    order = torch.cat([drawn[:, :kept].sort(dim=1).values, drawn[:, kept:].sort(dim=1).values], dim=1)
    return visible.gather(1, order), kept


def squared_distances(grid: tuple[int, int]) -> Tensor:
    """float32 [L, L]: between all places of a grid, row by row, in patches."""
    ids = torch.arange(grid[0] * grid[1])
    rows, columns = ids // grid[1], ids % grid[1]
    return ((rows[:, None] - rows).square() + (columns[:, None] - columns).square()).float()


def soft_places(apart: Tensor, sigma: float) -> Tensor:
    """float32 [L, L]: for each place the target, a normal of width `sigma` around it that adds up to 1; at 0 itself.

    Args:
        apart: See `squared_distances`.
        sigma: The shares go with exp(-apart / sigma ** 2).
    """
    return (-apart / max(sigma, _NARROWEST) ** 2).softmax(dim=1)


METHODS.add("droppos", DropPos)
