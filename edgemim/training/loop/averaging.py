"""The moving average of the weights, which ships instead of the weights of the last step.

Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992, in the exponential form
that fine-tuning recipes of timm use. In the first steps the average follows faster, by (1 + t) / (10 + t) as in
TensorFlow's ExponentialMovingAverage, or a short run would ship what it started from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor, nn

from edgemim.errors import TrainingError
from edgemim.training.loop.parts import ends_step


class WeightAverage(L.Callback):
    """Keeps the average of everything that a method trains; buffers ship as they are.

    Args:
        decay: Weight of what was there before, at each step, in (0, 1).
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._average: dict[str, Tensor] = {}

    @staticmethod
    def of(trainer: L.Trainer) -> WeightAverage | None:
        """The average that this trainer keeps, if it keeps one."""
        found = [callback for callback in trainer.callbacks if isinstance(callback, WeightAverage)]
        return found[0] if found else None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        weights = _trained(pl_module)
        if self._average:
            self._average = {name: self._average[name].to(weight.device) for name, weight in weights.items()}
        elif trainer.global_step == 0:
            self._average = {name: weight.detach().clone() for name, weight in weights.items()}
        else:
            raise self._absent(trainer.global_step)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not ends_step(trainer, batch_idx):
            return
        step = trainer.global_step
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = _trained(pl_module)
        torch._foreach_lerp_([self._average[n] for n in weights], list(weights.values()), 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """The averaged tensors, by name."""
        return {"average": dict(self._average)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved average."""
        self._average = dict(state_dict["average"])

    def take_from(self, state: Mapping[str, Any]) -> None:
        """The average that a whole saved state holds.

        Raises:
            TrainingError: It holds none.
        """
        own = state["callbacks"].get(self.state_key)
        if own is None:
            raise self._absent(state["global_step"])
        self.load_state_dict(own)

    @torch.no_grad()
    def put_into(self, module: L.LightningModule) -> None:
        """Replace the weights by their average, for good."""
        for name, weight in _trained(module).items():
            weight.copy_(self._average[name])

    @contextmanager
    def within(self, module: L.LightningModule) -> Iterator[None]:
        """The averaged weights inside the block, and the very ones from before after it."""
        weights = _trained(module)
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        self.put_into(module)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(before[name])

    def _absent(self, step: int) -> TrainingError:
        return TrainingError(
            f"the state of step {step} holds no averaged weights, training.ema is {self.decay}; "
            "resume with training.ema=0, or start anew with --overwrite"
        )


def _trained(module: L.LightningModule) -> dict[str, Tensor]:
    method = cast(nn.Module, module.method)
    return {name: weight for name, weight in method.named_parameters() if weight.requires_grad}
