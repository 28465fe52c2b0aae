"""MaskAlign: what the student sees of an image must look as it does to a teacher that sees all; no decoder.

Source: Xue et al., "Stare at What You See: Masked Image Modeling without Reconstruction", CVPR 2023,
    arXiv:2211.08887.
Command: pretrain, distill
Needs: a plain ViT as student; a teacher whose blocks can be tapped, all on one grid (ViT, BEiT)
Differs: levels of weight 0 get no head (the released code allocates and runs them). Class and register tokens take
    part where both models have equally many, else they are left out. The normalisation of targets over the whole
    batch, an option of the released code, is not built. The student stops after its last block, so its final norm
    learns nothing; it is neutral in the checkpoint of a fresh backbone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgemim.errors import ConfigError
from edgemim.losses.smooth_l1 import smooth_l1
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._asked import Asked
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._level_mixer import LevelMixer
from edgemim.methods._normalise import check_norm, normalise_tokens
from edgemim.methods._teacher_view import at_visible, check_guide, check_levels, look, shared_prefix, without_prefix
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.initialise import initialise_linear
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher

_TOP = 5
# The authors' factor on the distance of each level.
_SCALE = 2.0


@dataclass(frozen=True, kw_only=True)
class MaskAlignSettings:
    """Settings of `maskalign`; the defaults are those of the released command.

    Args:
        level_weights: How much each block of the teacher counts, first to last, none negative; or `top5`: its last
            five blocks a fifth each (all of them alike where it has fewer).
        target_norm: Of the teacher's tokens: `layer` (mean 0 and variance 1 of each), `l2` (unit length), `none`.
    """

    level_weights: str | tuple[float, ...] = "top5"
    target_norm: str = "layer"

    def __post_init__(self) -> None:
        given = self.level_weights
        if isinstance(given, str):
            if given != "top5":
                raise ConfigError(f"method.level_weights is 'top5' or a list of numbers; got {given!r}")
        elif not any(given) or min(given) < 0:
            raise ConfigError(f"method.level_weights must not be negative, and not all 0; got {list(given)}")
        check_norm(self.target_norm)


class MaskAlign(Method):
    """See the module.

    Raises:
        ConfigError: There is not one weight for each block of the teacher, one of those that count lies on another
            grid, or the masking asks for an attention that the teacher cannot show.
    """

    Settings = MaskAlignSettings
    needs_teacher = True
    student_needs = ("visible", "blocks")
    teacher_needs = ("full", "blocks")
    gives = ("teacher_attention",)

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        assert teacher is not None
        check_guide(teacher, masking)
        self.weights = _weights(settings.level_weights, teacher.adapter.depth)
        check_levels(teacher, self.weights)
        self.asked = Asked(blocks=tuple(self.weights), attention="teacher_attention" in masking.needs)
        self.mixer = LevelMixer(adapter.depth, teacher.adapter.depth)
        self.heads = nn.ModuleDict(
            {str(level): nn.Linear(adapter.width, teacher.adapter.width_of(level)) for level in self.weights}
        ).apply(initialise_linear)

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        assert self.teacher is not None
        view = look(self.teacher, batch, self.asked, draws=plan is None)
        plan = plan or self.draw(batch, rng, view.signals)
        student, teacher = self.adapter, self.teacher.adapter
        kept = shared_prefix(student, teacher)
        blocks = range(student.depth)
        after = student.forward(batch.images, plan, mode="visible", taps=blocks, stop_early=True).taps
        mixed = self.mixer([without_prefix(after[b], student.num_prefix, kept) for b in blocks], tuple(self.weights))
        terms = {}
        for (level, weight), tokens in zip(self.weights.items(), mixed, strict=True):
            seen = at_visible(view.taps[level], teacher.num_prefix, plan)
            target = normalise_tokens(without_prefix(seen, teacher.num_prefix, kept), self.settings.target_norm)
            distance = smooth_l1(student=self.heads[str(level)](tokens), teacher=target, beta=1.0)
            terms[f"level_{level}"] = (distance, _SCALE * weight)
        return Step.of(terms)

    def no_weight_decay(self) -> Collection[str]:
        return ("mixer.weight",)


def _weights(given: str | tuple[float, ...], depth: int) -> dict[int, float]:
    """Blocks of the teacher that count, ascending, and how much."""
    if isinstance(given, str):
        levels = range(max(0, depth - _TOP), depth)
        return {level: 1 / len(levels) for level in levels}
    if len(given) != depth:
        raise ConfigError(
            f"method.level_weights has {len(given)} numbers; give one for each of the teacher's {depth} blocks"
        )
    return {level: weight for level, weight in enumerate(given) if weight}


METHODS.add("maskalign", MaskAlign)
