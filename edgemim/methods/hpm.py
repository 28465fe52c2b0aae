"""HPM: an MAE that also learns which patches are hard for it, and whose slow copy hides more and more of those.

Source: Wang et al., "Hard Patches Mining for Masked Image Modeling", CVPR 2023, arXiv:2304.05919.
Command: pretrain
Needs: a ViT-like backbone
Differs: both the share of patches that are hidden because they are hard (masking `difficulty`) and the decay of the
    copy change with every step instead of every epoch. The copy has the encoder, the decoder's first layer and the
    predictor, but not the rest of the decoder, whose predictions nobody reads; with a masking that does not ask for the
    difficulty there is no copy at all. Both orders of a pair of patches cost the same, so each pair is counted once.
    For ranking=absolute the distance (squared) and the epsilon within the root (1e-6) are inferred. Features of a
    teacher or of the copy as targets in place of pixels are not built. Target patches are not normalised by default,
    as in the published commands. Visible patches stay in raster order, which changes nothing but rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._momentum import Momentum
from edgemim.methods._pixels import PixelReconstruction, normalise_patches, patchify
from edgemim.methods._ranking import order_loss, size_loss
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.decoder import SecondDecoder
from edgemim.models.mask_plan import VISIBLE, MaskPlan, gather_tokens
from edgemim.models.teachers import Teacher

_RANKINGS = {"pairwise": order_loss, "absolute": size_loss}


@dataclass(frozen=True, kw_only=True)
class HPMSettings:
    """Settings of `hpm`; the defaults are the paper's.

    Args:
        decoder_width, decoder_depth, decoder_heads: Of the decoder, and of the predictor beside it.
        norm_pix: Normalise each target patch by its own mean and deviation.
        ranking: What the predictor learns of the errors in an image: their order (`pairwise`), or how large each is
            among them (`absolute`).
        ema_decay, ema_decay_end: Share of the copy that stays at each step, at first and in the end, in [0, 1).
        ema_epochs: In which the decay goes from the first to the last, along a line; more than 0.
    """

    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    norm_pix: bool = False
    ranking: str = "pairwise"
    ema_decay: float = 0.999
    ema_decay_end: float = 0.9999
    ema_epochs: float = 100.0

    def __post_init__(self) -> None:
        if self.ranking not in _RANKINGS:
            raise ConfigError(f"method.ranking must be one of {', '.join(_RANKINGS)}; got {self.ranking!r}")
        for name in ("ema_decay", "ema_decay_end"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"method.{name} must lie in [0, 1); got {getattr(self, name)}")
        if self.ema_epochs <= 0:
            raise ConfigError(f"method.ema_epochs must be more than 0; got {self.ema_epochs}")


class HPM(Method):
    """See the module."""

    Settings = HPMSettings
    student_needs = ("visible",)
    gives = ("difficulty",)

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        width, depth, heads = settings.decoder_width, settings.decoder_depth, settings.decoder_heads
        self.pixels = PixelReconstruction(adapter, width=width, depth=depth, heads=heads, norm_pix=settings.norm_pix)
        outputs = self.pixels.decoder.predict.out_features
        self.difficulty = SecondDecoder(outputs, width=width, depth=depth, heads=heads, num_prefix=adapter.num_prefix)
        self.rank = _RANKINGS[settings.ranking]
        self.momentum: Momentum | None = None
        if "difficulty" in masking.needs:
            self.momentum = Momentum(adapter, {"embed": self.pixels.decoder.embed, "difficulty": self.difficulty})

    @classmethod
    def fewest_masked(cls, settings: Any) -> int:
        return 2 if settings.ranking == "absolute" else 1

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        plan = plan or self.draw(batch, rng, self.signals(batch))
        tokens = self.adapter.forward(batch.images, plan, mode="visible").final
        decoder = self.pixels.decoder
        sequence = decoder.sequence(decoder.embed(tokens), plan)
        predicted = decoder.decode(sequence, plan, only_masked=True)
        errors = (predicted.float() - self._target(batch.images, plan)).square().mean(dim=-1)
        scores = _score(self.difficulty(sequence, plan, only_masked=True))
        return Step.of({"pixels": (errors.mean(), 1.0), "ranking": (self.rank(scores, errors), 1.0)})

    @torch.no_grad()
    def signals(self, batch: Batch) -> dict[str, Tensor]:
        """How hard the copy expects each patch to be, seeing all of them; nothing where there is no copy."""
        if self.momentum is None:
            return {}
        copy, (rows, columns) = self.momentum, self.adapter.grid
        role = torch.full((len(batch.images), rows * columns), VISIBLE, dtype=torch.int8, device=batch.images.device)
        everything = MaskPlan(role, (rows, columns), (rows * columns, 0, 0))
        tokens = copy.adapter.forward(batch.images, everything, mode="visible").final
        # Nothing is masked: of the decoder this takes the positions alone, which are fixed.
        sequence = self.pixels.decoder.sequence(copy.heads["embed"](tokens), everything)
        return {"difficulty": _score(copy.heads["difficulty"](sequence, everything))}

    def after_step(self, epoch: float) -> None:
        if self.momentum is not None:
            first, last = self.settings.ema_decay, self.settings.ema_decay_end
            self.momentum.follow(first + (last - first) * min(1.0, epoch / self.settings.ema_epochs))

    def begin(self) -> None:
        if self.momentum is not None:
            self.momentum.begin()

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor | None:
        tokens = self.adapter.forward(batch.images, plan, mode="visible").final
        return self.pixels.images(tokens, batch.images, plan)

    def _target(self, images: Tensor, plan: MaskPlan) -> Tensor:
        """float32 [B, M, 3 * h * w], of the masked patches."""
        target = gather_tokens(patchify(images, self.adapter.patch_size), plan.mask_ids)
        return normalise_patches(target) if self.settings.norm_pix else target.float()


def _score(outputs: Tensor) -> Tensor:
    """float32 [B, N]: one number for each patch, from the predictor's outputs [B, N, C]."""
    return outputs.float().mean(dim=-1)


METHODS.add("hpm", HPM)
