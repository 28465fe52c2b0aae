"""Plain logit distillation: the student predicts the classes that a fine-tuned teacher sees, without any label.

Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2.
Command: distill
Needs: any backbone, convnets included; a teacher with a classifier (edgemim finetune, or a timm model with its head)
Differs: the term of the true labels is left out, so images without labels do. Temperature 1 by default (the paper
    searches for it); the divergence instead of the cross-entropy, which has the same gradient and ends at 0. The
    teacher sees the student's crops, as in Beyer et al., arXiv:2106.05237, at the size that it was trained with.
    The student ships with a head of the teacher's classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from edgemim.errors import ConfigError
from edgemim.losses.kl import kl
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._asked import Asked
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._teacher_view import look
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher


@dataclass(frozen=True, kw_only=True)
class LogitSettings:
    """Settings of `logit`.

    Args:
        temperature: By which the logits of both are divided, above 0. The loss is multiplied by its square.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ConfigError(f"method.temperature must be above 0; got {self.temperature}")


class Logit(Method):
    """See the module.

    Raises:
        ConfigError: The teacher has no classifier.
    """

    Settings = LogitSettings
    needs_teacher = True
    teacher_head = True
    matches_grid = False
    masks = False
    asked = Asked(logits=True)

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        assert teacher is not None
        if self.num_classes < 1:
            raise ConfigError(
                f"teacher {teacher.origin.source} has no classifier to learn from; "
                f"give it one first: edgemim finetune {teacher.origin.source} --data DATA --out DIR"
            )
        _put_head(self.model, self.num_classes)

    @property
    def num_classes(self) -> int:
        """The teacher's."""
        assert self.teacher is not None
        return self.teacher.num_classes

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        taught = look(self.teacher, batch, self.asked).logits
        assert taught is not None
        distance = kl(student=self.model(batch.images), teacher=taught, temperature=self.settings.temperature)
        return Step.of({"logits": (distance, 1.0)})


def _put_head(model: nn.Module, classes: int) -> None:
    """A fresh classifier of so many classes on a timm model, the one that timm would build it with."""
    timm_model = cast(Any, model)  # timm's methods carry no types
    # RepViT and iFormer have a second, distilled classifier, which they drop here unless they are told to keep it.
    distilled = getattr(getattr(model, "head", None), "distillation", None)
    timm_model.reset_classifier(classes, **({} if distilled is None else {"distillation": distilled}))


METHODS.add("logit", Logit)
