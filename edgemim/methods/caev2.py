"""CAE v2: visible patches, guesses at masked ones and the class token all have to look as they do to a teacher.

With method.decoder_depth=4, method.visible_weight=0 and method.alignment_weight=2 it is CAE with a teacher's features
as target.

Source: Zhang et al., "CAE v2: Context Autoencoder with CLIP Target", 2022, arXiv:2211.09799.
Command: pretrain, distill
Needs: a ViT-like backbone as student; any teacher whose blocks can be tapped
Differs: the paper's target are CLIP's image tokens behind its final norm and its projection into the space of images
    and texts; here the target is the output of the teacher's last block, so that any teacher will do. Class and
    register tokens take part where both models have equally many, else they are left out. The regressor ends in a norm,
    as CAE's does; the authors' has none, so that guesses are normed here once more than there. Keys of the encoder,
    initial weights, layer scale and warm-up are as in `cae`, its `Differs` included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from edgemim.errors import ConfigError
from edgemim.losses.cosine import cosine
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._asked import Asked
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._cae import LatentPrediction, check_prediction
from edgemim.methods._relations import block_setting
from edgemim.methods._teacher_view import check_levels, look, shared_prefix
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.mask_plan import MaskPlan, gather_tokens
from edgemim.models.teachers import Teacher


@dataclass(frozen=True, kw_only=True)
class CAEv2Settings:
    """Settings of `caev2`; the defaults are the paper's.

    Args:
        teacher_block: Whose output is the target (0-based); -1: the teacher's last.
        regressor_depth: Blocks of the latent regressor.
        decoder_width: Of regressor and decoder; 0: the encoder's.
        decoder_depth, decoder_heads: Of the decoder; the regressor has as many heads. Without blocks it is a norm and
            a linear layer, which visible patches and the class token go through at any depth.
        visible_weight: How much a visible patch, and the class token, counts beside a masked patch.
        alignment_weight: Factor of the distance between guessed latents and the encoder's own; 0 also saves its second
            pass.
    """

    teacher_block: int = -1
    regressor_depth: int = 4
    decoder_width: int = 0
    decoder_depth: int = 0
    decoder_heads: int = 12
    visible_weight: float = 1.0
    alignment_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.visible_weight < 0:
            raise ConfigError(f"method.visible_weight must not be negative; got {self.visible_weight}")
        check_prediction(self)


class CAEv2(Method):
    """See the module.

    Raises:
        ConfigError: The heads do not divide the width, or the teacher's block does not exist or lies on another grid.
    """

    Settings = CAEv2Settings
    needs_teacher = True
    student_needs = ("visible",)
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
        last = teacher.adapter.depth - 1
        self.teacher_block = block_setting("teacher_block", settings.teacher_block, last, teacher.adapter)
        check_levels(teacher, (self.teacher_block,))
        self.asked = Asked(blocks=(self.teacher_block,))
        self.latents = LatentPrediction(adapter, settings, teacher.adapter.width_of(self.teacher_block))

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        assert self.teacher is not None
        plan = plan or self.draw(batch, rng)
        student, teacher = self.adapter, self.teacher.adapter
        wanted = look(self.teacher, batch, self.asked).taps[self.teacher_block]
        patches = wanted[:, teacher.num_prefix :]
        latents = self.latents.encode(batch.images, plan)
        guessed = self.latents.regress(latents, plan)
        decoded = self.latents.decoder(guessed, plan)
        distances = {"masked": cosine(student=decoded, teacher=gather_tokens(patches, plan.mask_ids))}
        tokens = {"masked": float(plan.mask_ids.shape[1])}
        weight, shared = self.settings.visible_weight, shared_prefix(student, teacher)
        if weight:
            seen = self.latents.decoder.read(latents)
            own = seen[:, student.num_prefix :]
            distances["visible"] = cosine(student=own, teacher=gather_tokens(patches, plan.keep_ids))
            tokens["visible"] = weight * plan.keep_ids.shape[1]
            if shared:
                distances["class"] = cosine(student=seen[:, :shared], teacher=wanted[:, :shared])
                tokens["class"] = weight * shared
        # Together a mean over all tokens.
        terms = {name: (distance, tokens[name] / sum(tokens.values())) for name, distance in distances.items()}
        if self.settings.alignment_weight:
            alignment = self.latents.alignment(guessed, batch.images, plan)
            terms["alignment"] = (alignment, self.settings.alignment_weight)
        return Step.of(terms)


METHODS.add("caev2", CAEv2)
