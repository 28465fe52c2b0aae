"""CAE: guess the encoder's own latents of hidden patches from those of visible ones, and decode the guesses alone.

Source: Chen et al., "Context Autoencoder for Self-Supervised Representation Learning", IJCV 2024, arXiv:2202.03026.
Command: pretrain
Needs: a ViT-like backbone; with method.target=tokens a local file with the weights of DALL-E's encoder
Differs: the paper's target are the codes of DALL-E's discrete autoencoder, whose weights are a download. They are the
    target where a file is given (method.target=tokens, method.tokenizer); else the target is the pixels of each masked
    patch, normalised by their own mean and deviation as in MAE, which is a variant of ours. Beside pixels the alignment
    has the weight 0.2, beside codes the paper's 2: the error of pixels is about a tenth of the cross-entropy, and with
    2 the latents soon hardly vary, which makes them easy to guess (docs/methods.md). The tokenizer computes in
    float32, where the public one takes half precision on a GPU; it sees the student's crop made smaller bicubically,
    where the authors resize the same crop of the original again, with a Lanczos filter. The encoder is timm's ViT,
    whose keys have a bias too (the authors': queries and values only), which a softmax does not see. Regressor and
    decoder have the encoder's width; where method.decoder_width says another one, a linear layer and a norm lead to it,
    for the latents that are guessed from and for those that are guessed. The blocks of both have the layer scale and
    the drop path of the encoder's; the authors give the former by an option of its own, with the same number. Patch
    embedding and class token start as in MAE, where the authors draw both from a normal of deviation 0.02, cut off at
    one deviation.
    In the recipe the warm-up rises from 0 instead of 1e-6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.losses.mse import mse
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._cae import LatentPrediction, check_prediction
from edgemim.methods._pixels import normalise_patches, patch_statistics, patchify, unpatchify
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.mask_plan import MaskPlan, gather_tokens
from edgemim.models.teachers import Teacher
from edgemim.models.tokenizer import CODE_SIDE, load_tokenizer
from edgemim.preprocess import Preprocess

_TARGETS = ("pixels", "tokens")
# The paper's beside codes. Beside pixels one that keeps its share, compared on held-out training images of CIFAR-10.
_ALIGNMENT_WEIGHT = {"tokens": 2.0, "pixels": 0.2}


@dataclass(frozen=True, kw_only=True)
class CAESettings:
    """Settings of `cae`; the defaults are the paper's, but for the target, which needs a file, and what is beside it.

    Args:
        target: What is decoded: `pixels` of each masked patch, normalised by their own mean and deviation; or
            `tokens`, their codes by a discrete tokenizer.
        tokenizer: File with its weights; see `edgemim.models.tokenizer.load_tokenizer`.
        regressor_depth: Blocks of the latent regressor.
        decoder_width: Of regressor and decoder; 0: the encoder's.
        decoder_depth, decoder_heads: Of the decoder; the regressor has as many heads.
        alignment_weight: Factor of the distance between guessed latents and the encoder's own; 0 also saves its second
            pass. None becomes 2, the paper's, beside `tokens`, and 0.2 beside `pixels`.
    """

    target: str = "pixels"
    tokenizer: str = ""
    regressor_depth: int = 4
    decoder_width: int = 0
    decoder_depth: int = 4
    decoder_heads: int = 12
    alignment_weight: float | None = None

    def __post_init__(self) -> None:
        if self.target not in _TARGETS:
            raise ConfigError(f"method.target must be one of {', '.join(_TARGETS)}; got {self.target!r}")
        if self.target == "tokens" and not self.tokenizer:
            raise ConfigError(
                "method.target 'tokens' needs the weights of a tokenizer; give a local file with method.tokenizer, "
                "or set method.target=pixels"
            )
        if self.target != "tokens" and self.tokenizer:
            raise ConfigError(
                f"method.tokenizer is not used with method.target {self.target!r}; leave it out, or set "
                "method.target=tokens"
            )
        if self.alignment_weight is None:
            object.__setattr__(self, "alignment_weight", _ALIGNMENT_WEIGHT[self.target])
        check_prediction(self)


class CAE(Method):
    """See the module.

    Raises:
        CheckpointError: The tokenizer's file does not exist, cannot be read, or holds something else.
        ConfigError: The heads do not divide the width.
    """

    Settings = CAESettings
    student_needs = ("visible",)

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        self.tokenizer = load_tokenizer(settings.tokenizer) if settings.tokenizer else None
        pixels = 3 * adapter.patch_size[0] * adapter.patch_size[1]
        outputs = pixels if self.tokenizer is None else self.tokenizer.vocabulary
        self.latents = LatentPrediction(adapter, settings, outputs)

    def normalised_by(self, contract: Preprocess) -> None:
        """Take over the mean and std with which images come, which a tokenizer has to undo."""
        if self.tokenizer is not None:
            for name in ("mean", "std"):
                values = torch.tensor(getattr(contract, name)).view(1, 3, 1, 1)
                self.register_buffer(name, values, persistent=False)

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        plan = plan or self.draw(batch, rng)
        guessed = self.latents.regress(self.latents.encode(batch.images, plan), plan)
        decoded = self.latents.decoder(guessed, plan)
        distance = self._to_pixels if self.tokenizer is None else self._to_codes
        terms = {self.settings.target: (distance(decoded, batch.images, plan), 1.0)}
        weight = self.settings.alignment_weight
        if weight:
            terms["alignment"] = (self.latents.alignment(guessed, batch.images, plan), weight)
        return Step.of(terms)

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor | None:
        if self.tokenizer is not None:
            return None
        decoded = self.latents.decoder(self.latents.regress(self.latents.encode(batch.images, plan), plan), plan)
        patches = patchify(batch.images.float(), self.adapter.patch_size)
        # What `normalise_patches` took away is given back.
        mean, deviation = patch_statistics(gather_tokens(patches, plan.mask_ids))
        predicted = decoded.float() * deviation + mean
        filled = patches.scatter(1, plan.mask_ids.unsqueeze(-1).expand_as(predicted), predicted)
        return unpatchify(filled, self.adapter.patch_size, self.adapter.size)

    def _to_pixels(self, decoded: Tensor, images: Tensor, plan: MaskPlan) -> Tensor:
        patches = gather_tokens(patchify(images, self.adapter.patch_size), plan.mask_ids)
        return mse(student=decoded, teacher=normalise_patches(patches))

    def _to_codes(self, decoded: Tensor, images: Tensor, plan: MaskPlan) -> Tensor:
        assert self.tokenizer is not None
        rows, columns = self.adapter.grid
        small = F.interpolate(images.float(), (CODE_SIDE * rows, CODE_SIDE * columns), mode="bicubic", antialias=True)
        codes = self.tokenizer((small * self.std + self.mean).clamp(0, 1)).gather(1, plan.mask_ids)
        return F.cross_entropy(decoded.float().flatten(0, 1), codes.flatten())


METHODS.add("cae", CAE)
