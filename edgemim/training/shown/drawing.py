"""Pictures of what a method makes of a few images, drawn as a run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch

from edgemim.methods._base import Batch, Method
from edgemim.preprocess import Preprocess
from edgemim.training.loop.module import TrainingModule
from edgemim.training.loop.parts import ends_step
from edgemim.training.shown.pictures import reconstruction_grid, save_picture


class DrawReconstructions(L.Callback):
    """Writes `reconstructions/step-<n>.png` as training goes.

    Args:
        run: Folder of the run.
        images: uint8 [B, 3, H, W] to show.
        contract: Of the student.
        every: Steps between two pictures.
    """

    def __init__(self, run: Path, images: torch.Tensor, contract: Preprocess, every: int) -> None:
        self.run = run
        self.images = images
        self.contract = contract
        self.every = every

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if not ends_step(trainer, batch_idx) or (step % self.every and step != trainer.max_steps):
            return
        assert isinstance(pl_module, TrainingModule)
        method = pl_module.method
        assert isinstance(method, Method)
        shown: Batch = pl_module.batch({"images": self.images.to(pl_module.device)})
        picture = reconstruction_grid(method, shown, self.contract)
        if picture is not None:
            save_picture(picture, self.run / "reconstructions" / f"step-{step:09d}.png")
