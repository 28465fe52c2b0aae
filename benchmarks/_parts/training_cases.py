"""What a training step is measured on, and edgemim's own form of it."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgemim.masking.random import RandomMasking
from edgemim.methods._base import Batch, Method
from edgemim.methods.dmae import DMAE, DMAESettings
from edgemim.methods.mae import MAE, MAESettings
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher, TeacherOrigin
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from edgemim.training.loop.compilation import Work, compiled
from edgemim.training.loop.memory import kept_memory
from edgemim.training.loop.optimiser import build_optimiser
from edgemim.training.settings.training import TrainingSettings

from .trainee import Trainee

ARCHITECTURE = "vit_tiny_patch16_224"
MASK_RATIO = 0.75


@dataclass(frozen=True)
class Shape:
    """Of a plain ViT."""

    width: int
    depth: int
    heads: int


@dataclass(frozen=True, kw_only=True)
class Case:
    """A method between networks of given shapes.

    Attributes:
        shown: Its name in a table.
        method: `mae` (normalised pixels) or `dmae` (plain pixels, block at 3/4 of the depth, L1), as released.
        student, teacher, decoder: Of the networks; a teacher for `dmae` only.
        size, patch: In pixels.
    """

    shown: str
    method: str
    student: Shape
    teacher: Shape | None = None
    decoder: Shape = Shape(512, 8, 16)
    size: int = 224
    patch: int = 16

    def matched(self, shape: Shape) -> int:
        """The block at 3/4 of the depth, from 0."""
        return max(0, round(0.75 * shape.depth) - 1)


TINY, SMALL, BASE, LARGE = Shape(192, 12, 3), Shape(384, 12, 6), Shape(768, 12, 12), Shape(1024, 24, 16)
_SMOKE: dict[str, Any] = {"student": Shape(32, 4, 2), "decoder": Shape(32, 2, 2), "size": 32, "patch": 8}
CASES = {
    "mae-tiny": Case(shown="MAE, ViT-Ti/16", method="mae", student=TINY),
    "mae-base": Case(shown="MAE, ViT-B/16", method="mae", student=BASE),
    "dmae-small-to-tiny": Case(shown="DMAE, ViT-S to ViT-Ti", method="dmae", student=TINY, teacher=SMALL),
    "dmae-large-to-base": Case(shown="DMAE, ViT-L to ViT-B", method="dmae", student=BASE, teacher=LARGE),
    "smoke-mae": Case(shown="MAE, smallest", method="mae", **_SMOKE),
    "smoke-dmae": Case(shown="DMAE, smallest", method="dmae", teacher=Shape(48, 8, 4), **_SMOKE),
}


def make_images(batch: int, case: Case, device: torch.device) -> Tensor:
    """Random normalised images, which cost a step what any others do."""
    rng = torch.Generator().manual_seed(batch)
    return torch.randn(batch, 3, case.size, case.size, generator=rng).to(device)


def make_method(case: Case) -> Method:
    """edgemim's, with random weights from torch's generator."""
    student = adapt(_vit(case, case.student))
    student.initialise()
    shape = {
        "decoder_width": case.decoder.width,
        "decoder_depth": case.decoder.depth,
        "decoder_heads": case.decoder.heads,
    }
    masking = RandomMasking(mask_ratio=MASK_RATIO)
    if case.teacher is None:
        return MAE(student, masking, MAESettings(**shape))
    contract = Preprocess(size=(case.size, case.size))
    origin = TeacherOrigin(source="random", architecture=ARCHITECTURE, licence="none", sha256=None)
    taught = adapt(_vit(case, case.teacher))
    teacher = Teacher(taught, origin, mean=IMAGENET_MEAN, std=IMAGENET_STD, student=contract)
    return DMAE(student, masking, DMAESettings(**shape), teacher)


def _vit(case: Case, shape: Shape) -> torch.nn.Module:
    arguments = {
        "img_size": case.size,
        "patch_size": case.patch,
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": shape.heads,
    }
    return build_backbone(ARCHITECTURE, arguments)


class Edgemim(Trainee):
    """Our step: autocast to bf16 or none, fused AdamW, no wait for the device, memory kept on a CPU.

    Args:
        method: What is trained; taken over.
        settings: Of the optimiser.
        device: Where.
        precision: `fp32` or `bf16`.
        compiles: Whether its blocks are compiled; `close` ends that.
    """

    def __init__(
        self, method: Method, settings: TrainingSettings, *, device: torch.device, precision: str, compiles: bool
    ) -> None:
        self.device = device
        self.method = method.to(device).train()
        self.optimiser = build_optimiser(self.method, settings)
        self.half = precision == "bf16"
        self.rng = torch.Generator(device=device).manual_seed(0)
        self.plan: MaskPlan | None = None
        self._open = ExitStack()
        if compiles:
            size, name = self.method.adapter.size, "bf16-mixed" if self.half else "32-true"
            work = Work(device=device, precision=name, size=size, steps=1, images=1)
            self._open.enter_context(compiled(self.method, "on", work))

    def turn(self) -> AbstractContextManager[None]:
        return kept_memory(self.device)

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            return self.method(Batch(images), self.rng, self.plan).loss

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def update(self) -> None:
        self.optimiser.step()
        self.optimiser.zero_grad()

    def forget(self) -> None:
        self.optimiser.zero_grad()

    def close(self) -> None:
        """Plain blocks again."""
        self._open.close()
