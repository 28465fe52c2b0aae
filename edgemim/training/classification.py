"""A backbone with a classification head, and its loss.

Source: He et al., arXiv:2111.06377, appendix A (average pooling, a fresh norm, a linear head); mixup: Zhang et al.,
arXiv:1710.09412; CutMix: Yun et al., arXiv:1905.04899.
Differs: RandAugment and random erasing are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms import v2

from edgemim.errors import CheckpointError, first_of
from edgemim.methods._base import Batch, Step
from edgemim.models.adapters.beit import unshare_bias
from edgemim.models.build import build_backbone, classifiers
from edgemim.models.checkpoint import Checkpoint

# What fine-tuning makes anew: the head, and the norm that average pooling moves behind the pooling.
_FRESH = ("head.", "fc_norm.", "norm.", "head_dist.", "fc.", "classifier.")


class Classification(nn.Module):
    """Cross-entropy of a classifier, with mixup and CutMix where they are asked for.

    Args:
        model: Gives logits [B, classes].
        classes: Their number.
        label_smoothing: In [0, 1).
        mixup, cutmix: Alphas of their Beta distributions; 0: off. With both, each batch takes one at random.
    """

    def __init__(self, model: nn.Module, classes: int, *, label_smoothing: float, mixup: float, cutmix: float) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing
        mixes: list[nn.Module] = []
        if mixup > 0:
            mixes.append(v2.MixUp(alpha=mixup, num_classes=classes))
        if cutmix > 0:
            mixes.append(v2.CutMix(alpha=cutmix, num_classes=classes))
        self.mix = v2.RandomChoice(mixes) if mixes else None

    def forward(self, batch: Batch, rng: torch.Generator) -> Step:
        """Loss of one batch with labels."""
        assert batch.labels is not None
        images, labels = batch.images, batch.labels
        if self.mix is not None:
            images, labels = self.mix(images, labels)
        logits = self.model(images).float()
        return Step(F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing))


def classifier_from(
    checkpoint: Checkpoint, classes: int, *, pool: str, drop_path: float
) -> tuple[nn.Module, Mapping[str, Any]]:
    """The checkpoint's backbone under a fresh head, and the timm arguments that rebuild it.

    Args:
        checkpoint: With or without a head of its own, which is dropped.
        classes: Of the new head.
        pool: timm's `global_pool` for backbones with tokens (`avg` or `token`).
        drop_path: Stochastic depth while training.

    Raises:
        CheckpointError: The weights do not fit the model with a new head.
    """
    info = checkpoint.info
    arguments, given = unshare_bias(info.model_args, checkpoint.model.state_dict())
    if hasattr(checkpoint.model, "num_prefix_tokens"):
        arguments["global_pool"] = pool
    # What a backbone was pretrained with must not stay on when fine-tuning asks for none.
    asked = drop_path or "drop_path_rate" in arguments
    regularised = {**arguments, "drop_path_rate": drop_path} if asked else arguments
    model = build_backbone(info.architecture, regularised, num_classes=classes)
    own, head = model.state_dict(), classifiers(model)
    kept = {k: v for k, v in given.items() if k in own and v.shape == own[k].shape and not k.startswith(head)}
    lost = [k for k in own if k not in kept and not k.startswith(_FRESH) and not k.startswith(head)]
    if lost:
        raise CheckpointError(f"{checkpoint.artifact.path} lacks {first_of(lost)}; it cannot be fine-tuned")
    model.load_state_dict({**own, **kept})
    return model, arguments
