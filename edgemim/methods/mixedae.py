"""MixedAE: encode one collage of the patches of several images, take it apart, and predict the rest of each image.

Source: Chen et al., "Mixed Autoencoder for Self-supervised Visual Representation Learning", CVPR 2023,
    arXiv:2303.17152.
Command: pretrain
Needs: a plain ViT
Differs: no code of the authors is public, and nearly all details are inferred. These are: all blocks but the first let
    a query see its best keys alone, L / images of them and one more for each class and register token, which take part
    in the choice as queries and as keys; keys that tie for the last place are all seen; the softmax is over the scores
    that are kept. Class and register tokens are common to the images of a collage, and each decoder gets them. Segment
    embeddings, one for each place in a group, are added with the positions. The contrastive term looks at patch tokens
    after the final norm, through a head of two linear layers with a GELU between (the first keeps the width, the second
    has 128 outputs); a token's positives are the others of its image, each against all other tokens of the collage.
    Its temperature and weight, the decoder and the optimiser of the recipe (MAE's) are recalled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.masking._base import MaskingStrategy
from edgemim.masking.mixture import MixtureMasking
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._contrast import contrast
from edgemim.methods._pixels import PixelReconstruction
from edgemim.models.adapters.base import QKV, BackboneAdapter, TokenAdapter
from edgemim.models.initialise import initialise_linear
from edgemim.models.mask_plan import VISIBLE, MaskPlan
from edgemim.models.teachers import Teacher

_CONTRAST_OUTPUTS = 128


@dataclass(frozen=True, kw_only=True)
class MixedAESettings:
    """Settings of `mixedae`; the defaults are what is believed to be the paper's.

    Args:
        decoder_width, decoder_depth, decoder_heads: Of the decoder.
        norm_pix: Normalise each target patch by its own mean and deviation.
        first_restricted: The first block whose attention sees the best keys alone; 0: all blocks do.
        contrast_weight: Of the contrastive term beside the pixels.
        temperature: Of the contrastive term, above 0.
    """

    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    norm_pix: bool = True
    first_restricted: int = 1
    contrast_weight: float = 0.1
    temperature: float = 0.25

    def __post_init__(self) -> None:
        for name in ("first_restricted", "contrast_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"method.{name} must not be negative; got {getattr(self, name)}")
        if self.temperature <= 0:
            raise ConfigError(f"method.temperature must be above 0; got {self.temperature}")


class MixedAE(Method):
    """See the module.

    Raises:
        ConfigError: An image has only one place in its collage, so that no token has another of its own.
    """

    Settings = MixedAESettings
    student_needs = ("tokens",)
    only_masking = "mixture"
    adapter: TokenAdapter

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        assert isinstance(adapter, TokenAdapter)
        assert isinstance(masking, MixtureMasking)
        patches = adapter.grid[0] * adapter.grid[1]
        self.group = masking.images
        self.places = patches // masking.images
        if self.places < 2:
            raise ConfigError(
                f"a mixture of {masking.images} images leaves each {self.places} of {patches} places, and the "
                "contrastive term compares at least 2; set a smaller masking.images"
            )
        self.segments = nn.Parameter(torch.empty(self.group, 1, adapter.width))
        nn.init.normal_(self.segments, std=0.02)
        self.contrast_head = nn.Sequential(
            nn.Linear(adapter.width, adapter.width), nn.GELU(), nn.Linear(adapter.width, _CONTRAST_OUTPUTS)
        ).apply(initialise_linear)
        self.pixels = PixelReconstruction(
            adapter,
            width=settings.decoder_width,
            depth=settings.decoder_depth,
            heads=settings.decoder_heads,
            norm_pix=settings.norm_pix,
        )

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        plan = plan or self.draw(batch, rng)
        tokens = self._encode(batch.images, plan)
        pixels = self.pixels(self._apart(tokens), batch.images, plan)
        terms = {"pixels": (pixels, 1.0), "contrastive": (self._recognition(tokens), self.settings.contrast_weight)}
        return Step.of(terms)

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor | None:
        images = batch.images
        if len(images) % self.group:
            return None
        owners = (plan.role.view(-1, self.group, plan.role.shape[1]) == VISIBLE).sum(dim=1)
        if not bool((owners == 1).all()):
            return None
        return self.pixels.images(self._apart(self._encode(images, plan)), images, plan)

    def _encode(self, images: Tensor, plan: MaskPlan) -> Tensor:
        """Tokens of the collages, [B / group, P + L, D]: prefix, then the patches of the first image, the second ..."""
        adapter, places = self.adapter, plan.keep_ids
        patches, positions = adapter.embed(images, places), adapter.positions(places)
        if positions is not None:
            patches = patches + positions
        mixed = patches.unflatten(0, (-1, self.group)) + self.segments
        # The attention knows no order, and the positions say where each patch lies.
        return adapter.run(adapter.with_prefix(mixed.flatten(1, 2)), attend=self._attend).final

    def _attend(self, block: int, qkv: QKV) -> Tensor:
        """Homologous attention: each query sees the keys with the highest scores, as many as its image may have."""
        if block < self.settings.first_restricted:
            return F.scaled_dot_product_attention(qkv.queries, qkv.keys, qkv.values)
        scores = qkv.logits()
        lowest = scores.detach().topk(self.places + self.adapter.num_prefix, dim=-1).values[..., -1:]
        weights = scores.masked_fill(scores < lowest, float("-inf")).softmax(dim=-1)
        return weights.to(qkv.values.dtype) @ qkv.values

    def _apart(self, tokens: Tensor) -> Tensor:
        """Of collages, the tokens of each image, [B, P + K, D]: the common prefix and its own patches."""
        prefix = tokens[:, : self.adapter.num_prefix].unsqueeze(1).expand(-1, self.group, -1, -1)
        own = tokens[:, self.adapter.num_prefix :].unflatten(1, (self.group, -1))
        return torch.cat([prefix, own], dim=2).flatten(0, 1)

    def _recognition(self, tokens: Tensor) -> Tensor:
        """Whether the patches of a collage tell which others are of the same image."""
        compared = self.contrast_head(tokens[:, self.adapter.num_prefix :])
        owner = torch.arange(compared.shape[1], device=compared.device) // self.places
        itself = torch.eye(len(owner), dtype=torch.bool, device=compared.device)
        same = (owner.unsqueeze(1) == owner) & ~itself
        return contrast(compared, compared, same, self.settings.temperature, left_out=itself)


METHODS.add("mixedae", MixedAE)
