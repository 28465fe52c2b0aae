"""AMT: what the model itself looks at in an image is masked more often, and a part of the rest is thrown away.

Source: Liu et al., "Good helper is around you: Attention-driven Masked Image Modeling", AAAI 2023, arXiv:2211.15362.
Command: pretrain
Needs: a plain ViT as student, and training images that are not streamed
Differs: what is remembered of an image follows the crop exactly; the released code divides the place of the crop by the
    size of the image instead of that of a cell, and so uses a corner of each map alone. The model looks at all images
    when the run has gone through them `refresh_epochs` times or a multiple of it, counted from 1 (the released code
    counts from 0), and not at the very end. Whole images are resized for it as crops are. Maps are kept in half
    precision. In both forms masking and throwing begin at `first_epoch`. In the SimMIM form the masked patches enter
    after the visible ones, which the attention does not notice; its mask token starts as that of `simmim`, and its head
    is one linear layer per patch. That target patches are normalised in the MAE form is inferred from MAE.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.losses.l1 import l1
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._memory import PatchMemory
from edgemim.methods._pixels import PixelReconstruction, patchify, unpatchify
from edgemim.models.adapters.base import QKV, BackboneAdapter, TokenAdapter
from edgemim.models.crop_boxes import follow_crop
from edgemim.models.mask_plan import MaskPlan, gather_tokens
from edgemim.models.teachers import Teacher

_FORMS = ("mae", "simmim")
# By how much of a period the quotient of two decimal numbers may miss a whole one.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class AMTSettings:
    """Settings of `amt`; the defaults are the paper's for the MAE form.

    Args:
        form: `mae`: the encoder sees the visible patches alone, a decoder predicts the masked ones. `simmim`: it sees
            mask tokens too, and a linear layer predicts. Thrown patches cost nothing in either.
        decoder_width, decoder_depth, decoder_heads, norm_pix: As in `mae`; of that form only.
        first_epoch: From which on the masking follows the attention; 0 or more.
        refresh_epochs: Passes through the images between two looks at all of them, none of which comes before
            `first_epoch`; more than 0.
    """

    form: str = "mae"
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    norm_pix: bool = True
    first_epoch: float = 40.0
    refresh_epochs: float = 40.0

    def __post_init__(self) -> None:
        if self.form not in _FORMS:
            raise ConfigError(f"method.form must be one of {', '.join(_FORMS)}; got {self.form!r}")
        if self.first_epoch < 0:
            raise ConfigError(f"method.first_epoch must not be negative; got {self.first_epoch}")
        if self.refresh_epochs <= 0:
            raise ConfigError(f"method.refresh_epochs must be more than 0; got {self.refresh_epochs}")


class AMT(Method):
    """See the module."""

    Settings = AMTSettings
    student_needs = ("full", "visible", "qkv")
    gives = ("own_attention",)
    remembers = True

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        self.guided = "own_attention" in masking.needs
        self.memory = PatchMemory(adapter.grid[0] * adapter.grid[1])
        self.pixels: PixelReconstruction | _LinearPixels
        if settings.form == "mae":
            self.pixels = PixelReconstruction(
                adapter,
                width=settings.decoder_width,
                depth=settings.decoder_depth,
                heads=settings.decoder_heads,
                norm_pix=settings.norm_pix,
            )
        else:
            self.pixels = _LinearPixels(adapter)

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        plan = plan or self.draw(batch, rng, self.signals(batch))
        return Step.of({"pixels": (self.pixels(self._tokens(batch.images, plan), batch.images, plan), 1.0)})

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor | None:
        return self.pixels.images(self._tokens(batch.images, plan), batch.images, plan)

    def signals(self, batch: Batch) -> dict[str, Tensor]:
        """Where the model looked last time, in these crops; nothing before `first_epoch`, or where nobody asks.

        Of images that are not among those of the training set, where it looks now.
        """
        if not self.guided or batch.epoch < self.settings.first_epoch:
            return {}
        if batch.index is None:
            return {"own_attention": self.look(batch.images)}
        maps = self.memory.read(batch.index).unflatten(1, self.adapter.grid)
        if batch.crops is not None:
            maps = follow_crop(maps, batch.crops, self.adapter.grid)
        return {"own_attention": maps.flatten(1)}

    @torch.no_grad()
    def look(self, images: Tensor) -> Tensor:
        """float32 [B, L]: how much the last block of the model looks at each patch of whole images."""
        adapter, last, training = self.adapter, self.adapter.depth - 1, self.model.training
        self.model.eval()
        qkv = adapter.forward(images, qkv=(last,), stop_early=True).qkv[last]
        self.model.train(training)
        return salience(qkv, adapter.num_prefix, class_token=getattr(self.model, "cls_token", None) is not None)

    def is_due(self, before: float, after: float) -> bool:
        """Whether a look at all images comes when a step has taken the run from one number of epochs to another."""
        every = self.settings.refresh_epochs
        # Decimal numbers of epochs are not exact: what falls short of a whole number by a rounding is one.
        passed, already = (math.floor(epochs / every + _ROUNDING) for epochs in (after, before))
        due = passed > already and passed + _ROUNDING >= self.settings.first_epoch / every
        return bool(self.guided and due)

    def reserve(self, images: int, fingerprint: str) -> None:
        if self.guided:
            self.memory.reserve(images, fingerprint)

    def no_weight_decay(self) -> Collection[str]:
        return () if self.settings.form == "mae" else ("pixels.mask_token", "model.cls_token", "model.pos_embed")

    def _tokens(self, images: Tensor, plan: MaskPlan) -> Tensor:
        """Final tokens [B, P + K, D] of the visible patches; in the SimMIM form [B, P + K + M, D], masked ones too."""
        if isinstance(self.pixels, PixelReconstruction):
            return self.adapter.forward(images, plan, mode="visible").final
        assert isinstance(self.adapter, TokenAdapter)
        return self.pixels.encode(self.adapter, images, plan)


class _LinearPixels(nn.Module):
    """The SimMIM form: the encoder itself fills in what is masked, and a linear layer reads the pixels off.

    Args:
        adapter: Of the encoder.
    """

    def __init__(self, adapter: BackboneAdapter) -> None:
        super().__init__()
        self.patch_size = adapter.patch_size
        self.num_prefix = adapter.num_prefix
        self.mask_token = nn.Parameter(torch.empty(1, 1, adapter.width))
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)
        self.head = nn.Linear(adapter.width, 3 * adapter.patch_size[0] * adapter.patch_size[1])

    def encode(self, adapter: TokenAdapter, images: Tensor, plan: MaskPlan) -> Tensor:
        """Final tokens [B, P + K + M, D]: prefix, visible patches, then mask tokens at the places of the masked."""
        seen = adapter.embed(images, plan.keep_ids)
        masked = self.mask_token.to(seen.dtype).expand(*plan.mask_ids.shape, -1)
        patches = torch.cat([seen, masked], dim=1)
        positions = adapter.positions(torch.cat([plan.keep_ids, plan.mask_ids], dim=1))
        return adapter.run(adapter.with_prefix(patches if positions is None else patches + positions)).final

    def forward(self, tokens: Tensor, images: Tensor, plan: MaskPlan) -> Tensor:
        """Mean absolute error on the masked patches."""
        target = gather_tokens(patchify(images, self.patch_size), plan.mask_ids)
        first = tokens.shape[1] - plan.mask_ids.shape[1]
        return l1(student=self.head(tokens[:, first:]), teacher=target)

    def images(self, tokens: Tensor, images: Tensor, plan: MaskPlan) -> Tensor:
        """Predicted images, 0 in what was thrown away."""
        predicted = self.head(tokens[:, self.num_prefix :]).float()
        thrown = plan.role.shape[1] - predicted.shape[1]
        patches = gather_tokens(F.pad(predicted, (0, 0, 0, thrown)), plan.restore_ids)
        return unpatchify(patches, self.patch_size, (images.shape[2], images.shape[3]))


def salience(qkv: QKV, num_prefix: int, *, class_token: bool) -> Tensor:
    """How much the heads of a layer look at each patch, each head scaled to [0, 1] before the mean over all.

    Args:
        qkv: Of the layer.
        num_prefix: P, its class and register tokens.
        class_token: Whether the first of them is a class token, whose attention counts; else the mean of all patches'.

    Returns:
        float32 [B, L].
    """
    looking = qkv.queries[:, :, :1] if class_token else qkv.queries[:, :, num_prefix:]
    attention = QKV(looking, qkv.keys, qkv.values).logits().softmax(dim=-1).mean(dim=2)[:, :, num_prefix:]
    least, most = attention.aminmax(dim=2, keepdim=True)
    # A head that looks everywhere alike says nothing, and counts as 0 everywhere.
    return ((attention - least) / (most - least).clamp(min=torch.finfo(torch.float32).tiny)).mean(dim=1)


METHODS.add("amt", AMT)
