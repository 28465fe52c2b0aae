"""Methods that remember something of each training image, and look at all of them now and then as a run goes on.

They see the whole images, as an evaluation would: what they remember then follows the crops of each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import Dataset

from edgemim.methods._base import Method
from edgemim.methods._memory import PatchMemory
from edgemim.training.feed.draws import Crops
from edgemim.training.feed.images import AugmentedImages, Raw, loader, workers_for
from edgemim.training.feed.order import Place
from edgemim.training.loop.module import TrainingModule
from edgemim.training.loop.parts import ends_step
from edgemim.training.shown.say import say

_BATCH = 64


class Remembers(Protocol):
    """A method whose class says `remembers`."""

    memory: PatchMemory

    def look(self, images: Tensor) -> Tensor:
        """Rows of the memory, [B, L], of whole images [B, 3, H, W]."""

    def is_due(self, before: float, after: float) -> bool:
        """Whether all images are looked at when a step has taken the run from one number of epochs to another."""


class WholeImages(Dataset[Raw]):
    """All training images, each resized as a whole: not cropped, not mirrored, in its own colours.

    Args:
        images: The same ones as a run shows them.
    """

    def __init__(self, images: AugmentedImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    @property
    def quick(self) -> bool:
        """As of the images."""
        return self.images.quick

    def __getitems__(self, places: Sequence[Place]) -> Raw:
        """uint8 images [B, 3, H, W] and index [B].

        The next one that can be read stands for an image that cannot, under the index of the latter: the memory has a
        row for each, and no batch asks for that one.
        """
        pixels = [self.images.decoded.read(index)[1] for _, index in places]
        whole = Crops(
            boxes=torch.tensor([[0, 0, *p.shape[:2]] for p in pixels]),
            mirrored=torch.zeros(len(pixels), dtype=torch.bool),
            factors=torch.ones(len(pixels), 3),
        )
        index = torch.tensor([index for _, index in places])
        return {"images": self.images.augmentation.crop_each(pixels, whole), "index": index}


class RefreshMemory(L.Callback):
    """Fills a method's memory when that is due. Before the state is saved: it then holds the work.

    Args:
        images: The training images.
    """

    def __init__(self, images: AugmentedImages) -> None:
        self.whole = WholeImages(images)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # A run that is made longer looks as it would have done after what was its last step. Where it looked, the
        # weights are those of then, and what is remembered stays as it is.
        if trainer.global_step:
            self._look_if_due(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # After the last step nobody would ask what is remembered.
        if ends_step(trainer, batch_idx) and trainer.global_step != trainer.max_steps:
            self._look_if_due(trainer, pl_module)

    def _look_if_due(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        images, size, step = len(self.whole), pl_module.settings.batch_size, trainer.global_step
        # Each from whole steps: a difference of shares could miss a whole number of epochs by a rounding.
        before, after = (step - 1) * size / images, step * size / images
        if cast(Remembers, pl_module.method).is_due(before, after):
            say(f"looking at all {images} images (epoch {after:.3g})")
            self.refresh(pl_module, trainer.precision_plugin.forward_context())

    @torch.no_grad()
    def refresh(self, module: TrainingModule, arithmetic: AbstractContextManager[Any]) -> None:
        """Look at all images, each process of the run at its share of them.

        Args:
            module: Whose method looks.
            arithmetic: In which the steps of the run compute.
        """
        method, team = cast(Remembers, module.method), module.team
        mine = range(team.rank, len(self.whole), team.count)
        order = [[(0, index) for index in mine[start : start + _BATCH]] for start in range(0, len(mine), _BATCH)]
        workers = workers_for(module.settings.workers, self.whole, module.device, cores=team.launch.cores)
        method.memory.rows.zero_()
        with arithmetic:
            for raw in loader(self.whole, order, workers=workers):
                batch = module.batch({name: value.to(module.device, non_blocking=True) for name, value in raw.items()})
                assert batch.index is not None
                method.memory.write(batch.index, method.look(batch.images))
        if team.count > 1:
            dist.all_reduce(method.memory.rows)  # each row was written by one process, and is 0 in all others


def remembering(method: nn.Module, images: AugmentedImages) -> list[L.Callback]:
    """The callback of a method that remembers something; none for any other."""
    return [RefreshMemory(images)] if isinstance(method, Method) and method.remembers else []
