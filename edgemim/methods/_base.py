"""The contract of a method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.masking import MASKINGS
from edgemim.masking._base import MaskContext, MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._asked import Asked, TeacherView
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.adapters.conv import attending
from edgemim.models.crop_boxes import CropBoxes
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher
from edgemim.preprocess import Preprocess

# Backbones that have an ability which others lack, in words; the rarest ability first.
_KINDS = {
    "sparse": "a convnet in which nothing attends (ResNet, ConvNeXt, MobileNetV4, EfficientNet, RepViT)",
    "tokens": "a plain ViT",
    "qkv": "a plain ViT",
    "visible": "a ViT",
    "mask_token": "a ViT, BEiT or Swin",
    "uniform": "one without stages (ViT, BEiT)",
}


@dataclass(frozen=True)
class Batch:
    """What a training step gets.

    Attributes:
        images: float32 [B, 3, H, W], normalised by the student's contract.
        labels: int64 [B], or None.
        index: int64 [B]: which images of the data set these are.
        epoch_share: How much of the run is over, in [0, 1].
        epoch: How many times the run has gone through the images before this step, as a real number.
        plain: The same crops without the colour jitter that only the student sees; None where there is none.
        taught: What the teacher saw in these crops, where that is stored; None: it has to look.
        crops: Where these crops lie in their images; None where that is not known.
        second: Another crop of each image, for methods that have two `crops`.
    """

    images: Tensor
    labels: Tensor | None = None
    index: Tensor | None = None
    epoch_share: float = 0.0
    epoch: float = 0.0
    plain: Tensor | None = None
    taught: TeacherView | None = None
    crops: CropBoxes | None = None
    second: Batch | None = None

    @property
    def for_teacher(self) -> Tensor:
        """The images that a teacher looks at."""
        return self.images if self.plain is None else self.plain


@dataclass(frozen=True)
class Step:
    """What a training step gives: the loss to minimise, and named scalars to log."""

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, terms: Mapping[str, tuple[Tensor, float]]) -> Step:
        """The sum of named terms, each given unscaled and with its weight; both forms of each are logged."""
        scaled = {name: term * weight for name, (term, weight) in terms.items()}
        metrics = {f"loss/{name}": term.detach() for name, term in scaled.items()}
        metrics |= {f"loss/{name}_unscaled": term.detach() for name, (term, _) in terms.items()}
        return cls(torch.stack(list(scaled.values())).sum(), metrics)


class Method(nn.Module, ABC):
    """One way to train a backbone without labels.

    Args:
        adapter: Of the backbone being trained; its timm model is what ships.
        masking: Draws the plan of each step.
        settings: An instance of `Settings`.
        teacher: Frozen, for methods whose `needs_teacher` is true. Where the method `matches_grid`, it is resized
            so that its patch grid is that of the student's final tokens.

    Attributes:
        student_needs: Abilities that the student's adapter must have.
        teacher_needs: Those of the teacher's.
        needs_teacher: Whether it learns from a teacher.
        teacher_hint: What to do where none is given.
        matches_grid: Whether the teacher's tokens are compared with the student's, place by place.
        teacher_head: Whether the teacher is loaded with its classifier.
        masks: Whether it hides patches; without, the masking is never asked.
        only_masking: The one masking that it can use; empty: any whose needs it meets.
        corrupts: Whether it changes the images at random by itself.
        crops: How many crops of each image it takes, 1 or 2.
        experimental: What has to be known before its results are trusted; empty for all that follow a paper.
        group: Images of a step belong together in groups of so many.
        remembers: Whether it keeps something of each image of the training set; see `reserve`.
        gives: Signals that it has for a masking that asks for them.
        asked: What it asks its teacher about the whole images of each step; None where there is no teacher, or where
            it sees what the mask leaves.

    Raises:
        ConfigError: Student, teacher and masking cannot be combined; says what fits instead.
    """

    Settings: ClassVar[type]
    student_needs: ClassVar[tuple[str, ...]] = ("full",)
    teacher_needs: ClassVar[tuple[str, ...]] = ("full",)
    needs_teacher: ClassVar[bool] = False
    teacher_hint: ClassVar[str] = "give one with --teacher"
    matches_grid: ClassVar[bool] = True
    teacher_head: ClassVar[bool] = False
    masks: ClassVar[bool] = True
    only_masking: ClassVar[str] = ""
    corrupts: ClassVar[bool] = False
    remembers: ClassVar[bool] = False
    crops: ClassVar[int] = 1
    experimental: ClassVar[str] = ""
    group: int = 1
    gives: ClassVar[tuple[str, ...]] = ()
    asked: Asked | None = None

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__()
        if self.needs_teacher and teacher is None:
            raise ConfigError(f"method {self.name()!r} learns from a teacher; {self.teacher_hint}")
        self.check_student(adapter)
        _check_masking(self, masking)
        self.adapter = adapter
        self.model = adapter.backbone
        self.masking = masking
        self.settings = settings
        self.teacher = teacher if self.needs_teacher else None
        if self.teacher is not None:
            _check_teacher(self, self.teacher)
            if self.matches_grid:
                self.teacher.match(adapter.output_grid)

    @classmethod
    def name(cls) -> str:
        """As users write it: the name of the file."""
        return cls.__module__.rsplit(".", 1)[-1].replace("_", "-")

    @classmethod
    def check_student(cls, adapter: BackboneAdapter) -> None:
        """Refuse a backbone of a kind that the method cannot train.

        Raises:
            ConfigError: Says which methods fit this backbone, and which backbones fit this method.
        """
        lacking = [need for need in cls.student_needs if need not in adapter.abilities]
        if not lacking:
            return
        fitting = [name for name in METHODS if _can_do(METHODS.get(name), adapter)]
        kind = next((kind for need, kind in _KINDS.items() if need in lacking), "another one")
        found = attending(adapter.backbone) if lacking[0] == "sparse" else ""
        culprit = f" (no convnet: {found})" if found else ""
        raise ConfigError(
            f"method {cls.name()!r} needs a backbone with the ability {lacking[0]!r}; "
            f"{type(adapter.backbone).__name__} can do {', '.join(adapter.abilities)}{culprit}, "
            f"which is enough for the methods {', '.join(fitting) or 'none'}; choose one of these, or as backbone "
            f"{kind}"
        )

    @classmethod
    def fewest_masked(cls, settings: Any) -> int:
        """How many patches of an image have to be masked for the loss to say anything."""
        return 1

    @property
    def backbone(self) -> nn.Module:
        """The timm model that ships."""
        return self.model

    @property
    def num_classes(self) -> int:
        """Classes of the head that the backbone ships with; 0 without one."""
        return 0

    @abstractmethod
    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        """One training step's loss.

        Args:
            batch: On the device of the weights.
            rng: Every random number of the step; on the same device.
            plan: Used instead of drawing one.
        """

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor | None:
        """Predicted images [B, 3, H, W] in the student's normalisation; None where there is none to show."""
        return None

    def normalised_by(self, contract: Preprocess) -> None:
        """Called once, when the method is made: by whose mean and standard deviation the images of all steps are."""
        return

    def signals(self, batch: Batch) -> dict[str, Tensor]:
        """What the masking asks for, beside what a teacher says, by the names of its `needs`."""
        return {}

    def reserve(self, images: int, fingerprint: str) -> None:
        """Make room for what is kept of each image; called once, before a saved state is loaded.

        Args:
            images: In the training set.
            fingerprint: sha256 (hex) of the set and of how its images are shown.
        """
        return

    def after_step(self, epoch: float) -> None:
        """Called after each update of the weights, when the run has gone through the images `epoch` times."""
        return

    def begin(self) -> None:
        """Called once, when all weights that the run starts with are in their place."""
        return

    def draw(self, batch: Batch, rng: torch.Generator, signals: Mapping[str, Tensor] | None = None) -> MaskPlan:
        """A plan of the method's own masking for this batch."""
        context = MaskContext(
            epoch_share=batch.epoch_share,
            index=batch.index,
            patch_size=self.adapter.patch_size,
            signals=signals or {},
        )
        return self.masking.sample(len(batch.images), self.adapter.grid, rng, context)

    def no_weight_decay(self) -> Collection[str]:
        """Names of parameters that are not decayed, beside biases and other 1-D ones."""
        return ()

    def predictor_state(self) -> dict[str, Tensor]:
        """What the method trained beside the backbone and throws away at export; no copies that follow, no memory."""
        outside = ("model.", "teacher.", "momentum.", "memory.")
        return {k: v for k, v in self.state_dict().items() if not k.startswith(outside)}

    def load_predictor(self, state: Mapping[str, Tensor]) -> list[str]:
        """Take over what an earlier run of this or a related method threw away, and return the names.

        Tensors that this method has not, or has in another shape, are left out: another decoder starts anew.
        """
        own = self.predictor_state()
        fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
        self.load_state_dict(fitting, strict=False)
        self.begin()
        return sorted(fitting)


def _can_do(method: type[Method], adapter: BackboneAdapter) -> bool:
    return all(need in adapter.abilities for need in method.student_needs)


def _check_teacher(method: Method, teacher: Teacher) -> None:
    lacking = [need for need in method.teacher_needs if need not in teacher.adapter.abilities]
    if lacking:
        raise ConfigError(
            f"method {method.name()!r} needs a teacher with the ability {lacking[0]!r}; "
            f"{type(teacher.adapter.backbone).__name__} can do {', '.join(teacher.adapter.abilities)}"
        )


def _check_masking(method: Method, masking: MaskingStrategy) -> None:
    if method.only_masking and not isinstance(masking, MASKINGS.get(method.only_masking)):
        raise ConfigError(
            f"method {method.name()!r} works with one masking only; set masking.name={method.only_masking}"
        )
    lacking = [need for need in masking.needs if need not in method.gives]
    if not lacking:
        return
    fitting = [name for name in METHODS if lacking[0] in METHODS.get(name).gives]
    raise ConfigError(
        f"the masking needs {lacking[0]!r}, which method {method.name()!r} does not give; "
        f"methods that do: {', '.join(fitting) or 'none'}"
    )
