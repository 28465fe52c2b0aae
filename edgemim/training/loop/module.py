"""The Lightning module: one training step of any method, every random number a function of (seed, step)."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from edgemim.errors import TrainingError
from edgemim.methods._base import Batch, Step
from edgemim.preprocess import Preprocess
from edgemim.training.feed.images import Raw
from edgemim.training.loop.optimiser import build_optimiser, learning_rate_factor
from edgemim.training.loop.parts import Parts
from edgemim.training.loop.seeding import step_seed
from edgemim.training.loop.step_mean import StepMean
from edgemim.training.loop.watch import FiniteWatch
from edgemim.training.settings.training import TrainingSettings
from edgemim.training.untrained import without_gradient

_LOG_EVERY = 10
_TEACHER = "method.teacher."
_CURE = "lower training.base_lr, set training.clip_grad or training.precision=fp32, and start anew with --overwrite"


class TrainingModule(L.LightningModule):
    """Runs `method` for `steps` steps.

    Args:
        method: Called as `method(batch, rng)`, giving a `Step`.
        settings: Optimiser and schedule.
        contract: Whose mean and std normalise the images.
        steps: Of the whole run.
        seed: Of the run; part and step are mixed in.
        parts: Of each batch, and which of them come here.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        method: torch.nn.Module,
        settings: TrainingSettings,
        contract: Preprocess,
        *,
        steps: int,
        seed: int,
        parts: Parts | None = None,
    ) -> None:
        super().__init__()
        self.method = method
        self.settings = settings
        self.steps = steps
        self.seed = seed
        self.parts = parts or Parts()
        self.metrics: dict[str, float] = {}
        self.untrained: tuple[str, ...] | None = None
        self._watch = FiniteWatch()
        self._mean = StepMean()
        self.register_buffer("mean", torch.tensor(contract.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(contract.std).view(1, 3, 1, 1) * 255, persistent=False)

    def batch(self, raw: Raw) -> Batch:
        """A raw batch as the method takes it: float32 images, normalised."""
        images, plain = self._normalised(raw["images"]), raw.get("plain")
        return Batch(
            images,
            raw.get("labels"),
            raw.get("index"),
            epoch_share=self.global_step / self.steps,
            plain=None if plain is None else self._normalised(plain),
        )

    def _normalised(self, pixels: Tensor) -> Tensor:
        return (pixels.float() - self.mean) / self.std

    def training_step(self, raw: Raw, batch_idx: int) -> Tensor:
        seed = step_seed(self.seed, self.parts.of_batch(batch_idx), self.global_step)
        rng = torch.Generator(device=self.device).manual_seed(seed)
        devices = [self.device] if self.device.type == "cuda" else []
        # Dropout and drop path take the global generator: seeded per step, and left as it was found.
        with torch.random.fork_rng(devices=devices):
            # torch.manual_seed would also queue a call, with a stack trace, for every absent accelerator.
            torch.default_generator.manual_seed(seed)
            if self.device.type == "cuda":
                torch.cuda.manual_seed(seed)
            step: Step = self.method(self.batch(raw), rng)
        values = {**step.metrics, "loss": step.loss.detach()}
        self._watch.see(values, self.global_step)
        self._mean.add(values)
        if self.parts.ends_step(batch_idx):
            means = self._mean.take()
            if self.global_step % _LOG_EVERY == 0 or self.global_step == self.steps - 1:
                self._log(means)
        return step.loss

    def on_after_backward(self) -> None:
        # The last step too: at the first, a zero in the path (a fresh LayerScale, a zeroed head) can hide a gradient.
        if self.untrained is None or self.global_step == self.steps - 1:
            now = without_gradient(self.method)
            self.untrained = now if self.untrained is None else tuple(n for n in now if n in self.untrained)

    def _log(self, values: dict[str, Tensor]) -> None:
        self._refuse_not_finite()
        self.metrics = {name: float(value) for name, value in values.items()}
        self.metrics["lr"] = self.optimizers().param_groups[-1]["lr"]
        for logger in self.loggers:
            logger.log_metrics(self.metrics, step=self.global_step)

    def _refuse_not_finite(self) -> None:
        found = self._watch.first()
        if found is not None:
            name, value, step = found
            raise TrainingError(f"{name} is {value} at step {step}; {_CURE}")

    def configure_optimizers(self) -> Any:
        optimiser = build_optimiser(self.method, self.settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, learning_rate_factor(self.settings, self.steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Between two looks at the loss the weights may have gone: such a state must not replace a good one.
        self._refuse_not_finite()
        wrong = [n for n, p in self.method.named_parameters() if p.requires_grad and not p.isfinite().all()]
        if wrong:
            raise TrainingError(f"{wrong[0]} is not finite after step {self.global_step}; {_CURE}")
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith(_TEACHER)}
        checkpoint["untrained"] = list(self.untrained or ())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "untrained" in checkpoint:
            self.untrained = tuple(checkpoint["untrained"])
        # The teacher is frozen and is not saved with the run; Lightning wants every tensor all the same.
        own = {k: v for k, v in self.state_dict().items() if k.startswith(_TEACHER)}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **own}
