"""MaskDistill: predict, where the image is hidden, the normalised features of a frozen teacher that sees all of it.

Source: Peng et al., "A Unified View of Masked Image Modeling", TMLR 2023, arXiv:2210.10615.
Command: pretrain, distill
Needs: a backbone that takes mask tokens (ViT, BEiT, Swin), or a plain ViT with method.input=visible; any teacher
    whose blocks can be tapped
Differs: the authors published no code, so the defaults come from two independent ports and were not verified:
    smooth L1 with beta 1 (one port has 2), a linear head, block-wise masking of 40 %. Not verified either, and
    chosen here: the teacher's last block is taken before its final norm, whose learned scale a target must not
    have; the class token takes no part; the mask token starts from a truncated normal of deviation 0.02; the
    variant that sees visible patches alone has MAE's decoder of 8 blocks of width 512.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.losses.smooth_l1 import smooth_l1
from edgemim.masking._base import MaskContext, MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._asked import Asked
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._normalise import check_norm, normalise_tokens
from edgemim.methods._relations import block_setting
from edgemim.methods._teacher_view import check_levels, look
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.decoder import MAEDecoder
from edgemim.models.initialise import initialise_linear
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher

_INPUTS = ("mask_token", "visible")
# So many drawn masks are enough to see that a masking cuts through tokens.
_DRAWN = 8


@dataclass(frozen=True, kw_only=True)
class MaskDistillSettings:
    """Settings of `maskdistill`.

    Args:
        input: What the student gets: `mask_token`, all patches with a learned token in place of the hidden ones,
            followed by a linear layer; or `visible`, the others alone, followed by MAE's decoder (mask 75 % then).
        teacher_block: Whose output is the target (0-based); -1: the teacher's last.
        target_norm: Of the teacher's tokens: `layer` (mean 0 and variance 1 of each), `l2` (unit length), `none`.
        beta: Where the smooth L1 distance turns from a square into a line, above 0.
        decoder_width, decoder_depth, decoder_heads: Of the decoder of `visible`.
    """

    input: str = "mask_token"
    teacher_block: int = -1
    target_norm: str = "layer"
    beta: float = 1.0
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16

    def __post_init__(self) -> None:
        if self.input not in _INPUTS:
            raise ConfigError(f"method.input must be one of {', '.join(_INPUTS)}; got {self.input!r}")
        if self.beta <= 0:
            raise ConfigError(f"method.beta must be above 0; got {self.beta}")
        check_norm(self.target_norm)


class MaskDistill(Method):
    """See the module.

    Raises:
        ConfigError: The student cannot do without the hidden patches where the settings say so, the masking cuts
            through its final tokens, or the teacher's block does not exist or lies on another grid.
    """

    Settings = MaskDistillSettings
    needs_teacher = True
    student_needs = ("mask_token",)
    teacher_needs = ("full", "blocks")

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        assert teacher is not None
        _check_input(settings.input, adapter)
        _check_whole_tokens(masking, adapter)
        last = teacher.adapter.depth - 1
        self.teacher_block = block_setting("teacher_block", settings.teacher_block, last, teacher.adapter)
        check_levels(teacher, (self.teacher_block,))
        self.asked = Asked(blocks=(self.teacher_block,))
        width = teacher.adapter.width_of(self.teacher_block)
        if settings.input == "visible":
            self.decoder = MAEDecoder(
                adapter.width,
                adapter.grid,
                width,
                width=settings.decoder_width,
                depth=settings.decoder_depth,
                heads=settings.decoder_heads,
                num_prefix=adapter.num_prefix,
            )
        else:
            self.mask_token = nn.Parameter(torch.empty(1, 1, adapter.width_of(0)))
            nn.init.trunc_normal_(self.mask_token, std=0.02)
            self.head = nn.Linear(adapter.width, width).apply(initialise_linear)

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        assert self.teacher is not None
        plan = plan or self.draw(batch, rng)
        view = look(self.teacher, batch, self.asked)
        patches = view.taps[self.teacher_block][:, self.teacher.adapter.num_prefix :]
        features = smooth_l1(
            student=self._predict(batch.images, plan),
            teacher=normalise_tokens(patches, self.settings.target_norm),
            mask=plan.at(self.adapter.output_grid).mask,
            beta=self.settings.beta,
        )
        return Step.of({"features": (features, 1.0)})

    def _predict(self, images: Tensor, plan: MaskPlan) -> Tensor:
        """[B, L, D] of the teacher's width, for every patch of the student's output grid."""
        if self.settings.input == "visible":
            seen = self.adapter.forward(images, plan, mode="visible").final
            predicted: Tensor = self.decoder(seen, plan)
        else:
            token = self.mask_token.flatten()
            tokens = self.adapter.forward(images, plan, mode="mask_token", mask_token=token).final
            predicted = self.head(tokens[:, self.adapter.num_prefix :])
        return predicted


def _check_input(given: str, adapter: BackboneAdapter) -> None:
    if given not in adapter.abilities:
        raise ConfigError(
            f"method.input {given!r} needs a backbone with the ability {given!r}; "
            f"{type(adapter.backbone).__name__} can do {', '.join(adapter.abilities)}; set method.input=mask_token"
        )


def _check_whole_tokens(masking: MaskingStrategy, adapter: BackboneAdapter) -> None:
    """In a staged backbone a final token stands for several patches: all of them must be hidden, or none."""
    if adapter.output_grid == adapter.grid:
        return
    plan = masking.sample(_DRAWN, adapter.grid, torch.Generator(), MaskContext(patch_size=adapter.patch_size))
    try:
        whole = torch.equal(plan.at(adapter.output_grid).at(adapter.grid).role, plan.role)
    except ValueError:  # the images differ in how many tokens are hidden
        whole = False
    if not whole:
        height, width = adapter.stride
        raise ConfigError(
            f"a final token of {type(adapter.backbone).__name__} stands for {height}x{width} pixels, and this masking "
            f"hides parts of them; hide whole ones with masking.name=cells"
        )


METHODS.add("maskdistill", MaskDistill)
