"""Selfie: for each hidden place, choose the right one among the hidden patches of the same image.

Source: Trinh, Luong and Le, "Selfie: Self-supervised Pretraining for Image Embedding", 2019, arXiv:1906.02940.
Command: pretrain
Needs: a plain ViT
Differs: the paper's abstract is what was followed: patches are hidden, the one that belongs to a place is chosen among
    distractors of the same image, a network encodes patches, attention pooling sums up the visible ones. The rest is
    inferred. The paper's patch network is convolutional and is pretrained for a ResNet; here the backbone is a plain
    ViT that encodes the visible patches together, and each candidate by itself, without its position, which would be
    the answer. Candidates are all masked patches of the image, 75 % of it. Pooling has a learned query and blocks of
    the encoder's width and heads, over all visible tokens. Places are fixed sine and cosine embeddings, added to the
    summary; two linear layers with a GELU between them follow, since in a plain sum what was seen would raise a
    candidate's score by the same number at every place. Scores are products over the root of the width. The training
    values of the recipe are MAE's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method, Step
from edgemim.models.adapters.base import BackboneAdapter, TokenAdapter
from edgemim.models.decoder_block import DecoderBlock
from edgemim.models.initialise import initialise_linear
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.positions import sincos_positions
from edgemim.models.teachers import Teacher

# At a time: fused attention on GPUs starts a grid with a row for each sequence, and a grid has no more rows; 147 masked
# patches of each of 446 images are more.
_SEQUENCES = 65_535


@dataclass(frozen=True, kw_only=True)
class SelfieSettings:
    """Settings of `selfie`.

    Args:
        pooling_depth: Blocks of the attention pooling, at least 1.
    """

    pooling_depth: int = 3

    def __post_init__(self) -> None:
        if self.pooling_depth < 1:
            raise ConfigError(f"method.pooling_depth must be at least 1; got {self.pooling_depth}")


class Selfie(Method):
    """See the module.

    Raises:
        ConfigError: The backbone's width is not a multiple of 4.
    """

    Settings = SelfieSettings
    student_needs = ("visible", "tokens")

    positions: Tensor

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        assert isinstance(adapter, TokenAdapter)
        self.encoder = adapter
        width, heads = adapter.width, adapter.heads_of(0)
        self.query = nn.Parameter(torch.empty(1, 1, width))
        nn.init.normal_(self.query, std=0.02)
        self.register_buffer("positions", sincos_positions(width, adapter.grid), persistent=False)
        self.pooling = nn.ModuleList(DecoderBlock(width, heads) for _ in range(settings.pooling_depth))
        self.norm = LayerNorm(width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        for part in (self.pooling, self.norm, self.head):
            part.apply(initialise_linear)

    @classmethod
    def fewest_masked(cls, settings: Any) -> int:
        return 2  # one alone would have no distractor

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        plan = plan or self.draw(batch, rng)
        scores = self.scores(batch.images, plan)
        right = torch.arange(scores.shape[1], device=scores.device).expand(len(scores), -1)
        return Step.of({"matching": (F.cross_entropy(scores.flatten(0, 1), right.flatten()), 1.0)})

    def scores(self, images: Tensor, plan: MaskPlan) -> Tensor:
        """float32 [B, M, M]: row i says how well each of the plan's masked patches fits its i-th masked place."""
        places, candidates = self._places(images, plan), self._candidates(images, plan)
        # Autocast would round the products, and a softmax turns a rounding of its logits into a factor.
        with torch.autocast(images.device.type, enabled=False):
            products = places.float() @ candidates.float().transpose(1, 2)
        scores: Tensor = products * self.encoder.width**-0.5
        return scores

    def _places(self, images: Tensor, plan: MaskPlan) -> Tensor:
        """[B, M, D]: what is looked for at each masked place, given the visible patches."""
        seen = self.encoder.forward(images, plan, mode="visible").final
        x = torch.cat([self.query.to(seen.dtype).expand(len(seen), -1, -1), seen], dim=1)
        *before, last = self.pooling
        for block in before:
            x = block(x)
        summary = self.norm(last(x, stop=1))
        wanted: Tensor = self.head(summary + F.embedding(plan.mask_ids, self.positions.to(summary.dtype)))
        return wanted

    def _candidates(self, images: Tensor, plan: MaskPlan) -> Tensor:
        """[B, M, D]: each masked patch as the backbone encodes it by itself, not knowing where it lies."""
        patches = self.encoder.embed(images, plan.mask_ids)
        alone = self.encoder.with_prefix(patches.flatten(0, 1).unsqueeze(1))
        encoded = torch.cat([self.encoder.run(part).final[:, -1] for part in alone.split(_SEQUENCES)])
        candidates: Tensor = encoded.unflatten(0, patches.shape[:2])
        return candidates


METHODS.add("selfie", Selfie)
