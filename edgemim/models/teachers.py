"""Teachers: a frozen backbone that takes the student's images, whatever statistics and size it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemim.errors import CheckpointError, ConfigError
from edgemim.models.adapters import adapt
from edgemim.models.adapters.base import BackboneAdapter, Features
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teacher_sources import find_teacher
from edgemim.preprocess import Preprocess


@dataclass(frozen=True, kw_only=True)
class TeacherOrigin:
    """Where a teacher came from, for the provenance.

    Attributes:
        source: As the user gave it.
        licence: Of its weights, or "unknown".
        sha256: Of its weights file, where it is a local one.
        mean, std: Statistics that its images are normalised with.
        resampled_from: Height and width of the patch grid of its position table, where that was another one than
            the grid that its arguments ask for.
    """

    source: str
    architecture: str
    licence: str
    sha256: str | None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resampled_from: tuple[int, int] | None = None


class Teacher(nn.Module):
    """A frozen backbone that takes the student's images.

    Args:
        adapter: Of the teacher's backbone.
        origin: For the provenance.
        mean, std: Statistics that the teacher was trained with.
        student: The student's contract; images normalised by it are re-normalised for the teacher.
        class_names: One per class of its classifier, where they are known.

    Attributes:
        num_classes: Of its classifier; 0 without one.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        adapter: BackboneAdapter,
        origin: TeacherOrigin,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        student: Preprocess,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.origin = origin
        self.model = adapter.backbone.requires_grad_(False)
        self.num_classes = int(getattr(self.model, "num_classes", 0))
        self.class_names = class_names
        own_mean, own_std = torch.tensor(mean), torch.tensor(std)
        scale, shift = torch.tensor(student.std) / own_std, (torch.tensor(student.mean) - own_mean) / own_std
        self.register_buffer("scale", scale.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(1, 3, 1, 1), persistent=False)
        self._same = mean == student.mean and std == student.std
        self.dismissed = False
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        """A teacher stays in eval mode whatever its parent does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor, plan: MaskPlan | None = None, **asked: Any) -> Features:
        """Features of the student's images, without gradient; `asked` goes to `BackboneAdapter.forward`."""
        assert not self.dismissed
        return self.adapter.forward(self.prepare(images), plan, **asked)

    def prepare(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] normalised as the student's, as the teacher takes them: its statistics, its size."""
        images = self.own_statistics(images)
        if tuple(images.shape[2:]) == self.adapter.size:
            return images
        return F.interpolate(images, self.adapter.size, mode="bicubic", antialias=True)

    def own_statistics(self, images: Tensor) -> Tensor:
        """Images normalised as the student's, re-normalised as the teacher's."""
        return images if self._same else images * self.scale + self.shift

    def match(self, grid: tuple[int, int]) -> None:
        """Let the teacher see images of such a size that its final tokens lie on `grid`.

        Its patches keep their size; its positions are resampled.

        Raises:
            ConfigError: It cannot take images of that size.
        """
        if self.adapter.output_grid == grid:
            return
        stride = self.adapter.stride
        size = (grid[0] * stride[0], grid[1] * stride[1])
        try:
            self.adapter = self.adapter.resize(size)
        except ConfigError as error:
            raise ConfigError(
                f"the teacher's patch grid {_x(self.adapter.output_grid)} is not the student's {_x(grid)}, and it "
                f"cannot be resized: {error}; choose backbone.img_size and backbone.patch_size so that they agree"
            ) from error
        if self.adapter.output_grid != grid:
            raise ConfigError(
                f"with images of {_x(size)} the teacher's patch grid is {_x(self.adapter.output_grid)}, not the "
                f"student's {_x(grid)}; choose backbone.img_size and backbone.patch_size so that they agree"
            )
        self.model.requires_grad_(False).eval()  # resampled positions are new parameters

    def dismiss(self) -> None:
        """Free the weights of a teacher that will not be asked again; what it is remains known.

        Nothing of it but the statistics of its images goes to a device from now on.
        """
        self.model.to("meta")
        del self.model
        self.dismissed = True


def load_teacher(source: str, settings: Mapping[str, Any], *, student: Preprocess, with_head: bool = False) -> Teacher:
    """Load a teacher.

    Args:
        source: Folder, weights file, timm name, or `hf-hub:OWNER/NAME`.
        settings: `backbone` (needed with a weights file), `licence`, `mean` and `std` (where the source does not
            say them), and timm arguments. Where these ask for another image size than that of the weights, a
            position table is resampled bicubically, and the origin says from which grid.
        student: The contract of the images that it will get.
        with_head: Keep its classifier.

    Raises:
        CheckpointError: It cannot be read, fetched or matched, or has no classifier where one is asked for.
        ConfigError: It is not a name, path or id that is known.
    """
    found = find_teacher(source, settings, with_head=with_head)
    if with_head and not getattr(found.model, "num_classes", 0):
        raise CheckpointError(f"teacher {source} has no classifier; give one that was fine-tuned (edgemim finetune)")
    origin = TeacherOrigin(
        source=source,
        architecture=found.architecture,
        licence=str(settings.get("licence") or found.licence or "unknown"),
        sha256=found.sha256,
        mean=found.mean,
        std=found.std,
        resampled_from=found.resampled_from,
    )
    adapter = adapt(found.model, found.size)
    names = found.class_names if with_head else None
    return Teacher(adapter, origin, mean=found.mean, std=found.std, student=student, class_names=names)


def _x(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
