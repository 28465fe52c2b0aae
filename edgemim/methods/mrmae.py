"""MR-MAE: visible tokens mimic a frozen teacher's features, and the decoder reconstructs the pixels of the rest.

Source: Gao et al., "Mimic before Reconstruct: Enhancing Masked Autoencoders with Feature Mimicking", 2023,
    arXiv:2303.05475.
Command: pretrain, distill
Needs: a plain ViT as student; any teacher whose blocks can be tapped
Differs: the authors published no code of the mimic loss, and its details could not be verified: the target is the
    teacher's last block, before its final norm, with mean 0 and variance 1 of each token; the distance is smooth L1
    with beta 1 and weight 1 (the paper's is described as a squared distance; method.distance=mse gives its mean
    over channels); the head is one linear layer; the class token takes no part. Fusing several blocks of the
    student sums them before any norm, and is off by default. The paper's convolutional stages are not built: the
    backbone is a plain ViT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.losses import LOSSES
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._asked import Asked
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._normalise import check_norm, normalise_tokens
from edgemim.methods._pixels import PixelReconstruction
from edgemim.methods._relations import block_setting
from edgemim.methods._teacher_view import check_guide, check_levels, look
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.initialise import initialise_linear
from edgemim.models.mask_plan import MaskPlan, gather_tokens
from edgemim.models.teachers import Teacher

_DISTANCES = ("smooth-l1", "mse")


@dataclass(frozen=True, kw_only=True)
class MRMAESettings:
    """Settings of `mrmae`.

    Args:
        decoder_width, decoder_depth, decoder_heads: Of the decoder.
        norm_pix: Normalise each target patch by its own mean and deviation.
        mimic_weight: Factor of the mimic term.
        mimic_blocks: Blocks of the student (0-based) whose tokens are summed for the mimic head; empty: the final
            tokens.
        distance: `smooth-l1` or `mse`.
        target_norm: Of the teacher's tokens: `layer` (mean 0 and variance 1 of each), `l2` (unit length), `none`.
        teacher_block: Whose output is mimicked (0-based); -1: the teacher's last.
    """

    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    norm_pix: bool = True
    mimic_weight: float = 1.0
    mimic_blocks: tuple[int, ...] = ()
    distance: str = "smooth-l1"
    target_norm: str = "layer"
    teacher_block: int = -1

    def __post_init__(self) -> None:
        if self.mimic_weight < 0:
            raise ConfigError(f"method.mimic_weight must not be negative; got {self.mimic_weight}")
        if self.distance not in _DISTANCES:
            raise ConfigError(f"method.distance must be one of {', '.join(_DISTANCES)}; got {self.distance!r}")
        check_norm(self.target_norm)


class MRMAE(Method):
    """See the module.

    Raises:
        ConfigError: A block does not exist or lies on another grid, or the masking asks for an attention that the
            teacher cannot show.
    """

    Settings = MRMAESettings
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
        _check_blocks(settings.mimic_blocks, adapter)
        last = teacher.adapter.depth - 1
        self.teacher_block = block_setting("teacher_block", settings.teacher_block, last, teacher.adapter)
        check_levels(teacher, (self.teacher_block,))
        self.asked = Asked(blocks=(self.teacher_block,), attention="teacher_attention" in masking.needs)
        self.pixels = PixelReconstruction(
            adapter,
            width=settings.decoder_width,
            depth=settings.decoder_depth,
            heads=settings.decoder_heads,
            norm_pix=settings.norm_pix,
        )
        self.head = nn.Linear(adapter.width, teacher.adapter.width_of(self.teacher_block)).apply(initialise_linear)
        self.distance = LOSSES.get(settings.distance)

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        assert self.teacher is not None
        view = look(self.teacher, batch, self.asked, draws=plan is None)
        plan = plan or self.draw(batch, rng, view.signals)
        blocks = self.settings.mimic_blocks
        features = self.adapter.forward(batch.images, plan, mode="visible", taps=blocks)
        pixels = self.pixels(features.final, batch.images, plan)
        # Mimicry ends where reconstruction begins: no patch has both targets.
        fused = torch.stack([features.taps[b] for b in blocks]).sum(dim=0) if blocks else features.final
        whole = view.taps[self.teacher_block][:, self.teacher.adapter.num_prefix :]
        mimic = self.distance(
            student=self.head(fused[:, self.adapter.num_prefix :]),
            teacher=normalise_tokens(gather_tokens(whole, plan.keep_ids), self.settings.target_norm),
        )
        return Step.of({"pixels": (pixels, 1.0), "mimic": (mimic, self.settings.mimic_weight)})

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor | None:
        tokens = self.adapter.forward(batch.images, plan, mode="visible").final
        return self.pixels.images(tokens, batch.images, plan)


def _check_blocks(given: tuple[int, ...], adapter: BackboneAdapter) -> None:
    wrong = [b for b in given if not 0 <= b < adapter.depth]
    if wrong or len(set(given)) < len(given):
        raise ConfigError(
            f"method.mimic_blocks names blocks of the student, each once; it has 0 to {adapter.depth - 1}; "
            f"got {list(given)}"
        )


METHODS.add("mrmae", MRMAE)
