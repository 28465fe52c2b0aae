"""Pictures of what a method hides of a few images and makes of them, drawn as a run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from edgemim.methods._base import Batch, Method
from edgemim.preprocess import Preprocess
from edgemim.training.feed.images import Raw
from edgemim.training.loop.module import TrainingModule
from edgemim.training.loop.parts import ends_step
from edgemim.training.shown.pictures import draw, save_picture


class DrawReconstructions(L.Callback):
    """Writes `reconstructions/step-<n>.png`, or `masks/step-<n>.png`, as training goes.

    Args:
        run: Folder of the run.
        shown: Their uint8 `images`, [B, 3, H, W], and what else a batch may have.
        contract: Of the student.
        every: Steps between two pictures.
    """

    def __init__(self, run: Path, shown: Raw, contract: Preprocess, every: int) -> None:
        self.run = run
        self.shown = shown
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
        shown: Batch = pl_module.batch({name: value.to(pl_module.device) for name, value in self.shown.items()})
        # Every process draws, since a teacher that is spread over them has to be run by all; the first one saves.
        drawn = draw(method, shown, self.contract)
        if drawn is not None and trainer.is_global_zero:
            kind, picture = drawn
            save_picture(picture, self.run / kind / f"step-{step:09d}.png")
