"""What a method does after each update of its weights, before the state is saved."""

from __future__ import annotations

from typing import Any

import lightning as L

from edgemim.methods._base import Method
from edgemim.training.loop.parts import ends_step


class Following(L.Callback):
    """Calls `Method.after_step`. The first of the callbacks: what others save has to hold its work."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if isinstance(pl_module.method, Method) and ends_step(trainer, batch_idx):
            pl_module.method.after_step(pl_module.epoch)
