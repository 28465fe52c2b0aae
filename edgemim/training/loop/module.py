"""The Lightning module: one training step of any method, every random number a function of (seed, step)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch import Tensor

from edgemim.errors import TrainingError
from edgemim.methods._base import Batch, Step
from edgemim.models.crop_boxes import CropBoxes
from edgemim.preprocess import Preprocess
from edgemim.training.feed.images import Raw, second_crop
from edgemim.training.feed.resident import Resident
from edgemim.training.loop.divergence import LossWatch
from edgemim.training.loop.optimiser import (
    build_optimiser,
    learning_rate_factor,
    parameter_groups,
    weight_decay_at,
)
from edgemim.training.loop.pace import Pace
from edgemim.training.loop.parts import Parts
from edgemim.training.loop.processes import ALONE, Team
from edgemim.training.loop.seeding import step_seed
from edgemim.training.loop.step_mean import StepMean
from edgemim.training.loop.watch import FiniteWatch
from edgemim.training.saving.fitting import refuse_misfit
from edgemim.training.settings.training import TrainingSettings
from edgemim.training.teacher_cache.rows import taught_in
from edgemim.training.untrained import without_gradient

_LOG_EVERY = 10
_TEACHER = "method.teacher."
_CALM = (
    "the states from before it rose are kept: lower training.base_lr or set training.clip_grad, and go on with "
    "--resume --accept-changes; where such a loss is right, set training.diverged_at=0"
)
_CURE = "lower training.base_lr, set training.clip_grad or training.precision=fp32, and start anew with --overwrite"


class TrainingModule(L.LightningModule):
    """Runs `method` for `steps` steps.

    Args:
        method: Called as `method(batch, rng)`, giving a `Step`.
        settings: Optimiser and schedule.
        contract: Whose mean and std normalise the images.
        steps: Of the whole run.
        seed: Of the run; part and step are mixed in.
        images: In the training set.
        parts: Of each batch, and which of them come here.
        team: The processes of the run; what is logged is their mean.

    Attributes:
        metrics: Of the last step that was logged.
        untrained: Parameters that have had no gradient so far.
        resident: The training images, where they lie on the device and a batch has only what was drawn for it.
        measures: Whether the quality of the weights is measured on the way.
        measured: What it was, by step; the last one alone.
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
        images: int = 0,
        parts: Parts | None = None,
        team: Team = ALONE,
    ) -> None:
        super().__init__()
        self.method = method
        self.settings = settings
        self.steps = steps
        self.seed = seed
        self.images = images
        self.parts = parts or Parts()
        self.team = team
        self.metrics: dict[str, float] = {}
        self.untrained: tuple[str, ...] | None = None
        self.resident: Resident | None = None
        self.pace = Pace(settings.batch_size)
        self.losses = LossWatch(settings.diverged_at)
        self.measures = False
        self.measured: dict[int, float] = {}
        self._seen: dict[str, Tensor] = {}
        self._watch = FiniteWatch()
        self._mean = StepMean()
        self.register_buffer("mean", torch.tensor(contract.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(contract.std).view(1, 3, 1, 1) * 255, persistent=False)

    def batch(self, raw: Raw) -> Batch:
        """A raw batch as the method takes it: float32 images, normalised."""
        if self.resident is not None and "images" not in raw:
            raw = self.resident(raw)
        second = second_crop(raw)
        one = self._of_one_crop(raw)
        return one if second is None else replace(one, second=self._of_one_crop(second))

    @property
    def epoch(self) -> float:
        """How many times the run has gone through the images so far."""
        return self.global_step * self.settings.batch_size / self.images if self.images else 0.0

    def _of_one_crop(self, raw: Raw) -> Batch:
        images, plain, placed = self._normalised(raw["images"]), raw.get("plain"), raw.get("placed")
        return Batch(
            images,
            raw.get("labels"),
            raw.get("index"),
            epoch_share=self.global_step / self.steps,
            epoch=self.epoch,
            plain=None if plain is None else self._normalised(plain),
            taught=taught_in(raw),
            crops=None if placed is None else CropBoxes(boxes=placed[:, :4], mirrored=placed[:, 4] > 0),
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
                self._seen = means
        return step.loss

    def on_after_backward(self) -> None:
        # The last step too: at the first, a zero in the path (a fresh LayerScale, a zeroed head) can hide a gradient.
        if self.untrained is None or self.global_step == self.steps - 1:
            now = without_gradient(self.method)
            self.untrained = now if self.untrained is None else tuple(n for n in now if n in self.untrained)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.settings.weight_decay_end is not None:
            decay = weight_decay_at(self.settings, self.global_step / self.steps)
            for group in optimizer.param_groups:
                group["weight_decay"] = decay if group["decays"] else 0.0
        # After the last part of a step, before clipping: the only place where a step's own gradient is whole.
        if self._seen:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self._log({**self._seen, "gradient_norm": torch.nn.utils.get_total_norm(gradients)})
            self._seen = {}

    def _log(self, values: dict[str, Tensor]) -> None:
        self._refuse_not_finite()
        self.metrics = {name: float(value) for name, value in self.team.mean(values).items()}
        self.metrics["lr"] = self.optimizers().param_groups[-1]["lr"]
        self.metrics |= self.pace.take(self.global_step)
        for logger in self.loggers:
            logger.log_metrics(self.metrics, step=self.global_step)
        wrong = self.losses.see(self.metrics)
        if wrong is not None:
            raise TrainingError(f"{wrong}, at step {self.global_step}; {_CALM}")

    def _refuse_not_finite(self) -> None:
        found = [first for first in self.team.gather(self._watch.first()) if first is not None]
        if found:
            name, value, step = min(found, key=lambda first: first[2])  # the others got theirs from that one
            raise TrainingError(f"{name} is {value} at step {step}; {_CURE}")

    def on_train_start(self) -> None:
        self.pace.begin(self.global_step)
        if self.global_step:
            self._apply_settings()

    def _apply_settings(self) -> None:
        """Let the settings decide what the saved optimiser and schedule brought along.

        Where nothing was changed these are the very numbers that were saved.
        """
        factor = learning_rate_factor(self.settings, self.steps)(self.global_step)
        fresh = parameter_groups(self.method, self.settings)
        for group, new in zip(self.optimizers().param_groups, fresh, strict=True):
            group["weight_decay"], group["betas"] = new["weight_decay"], self.settings.betas
            group["initial_lr"], group["lr"] = new["lr"], new["lr"] * factor
        self.lr_schedulers().base_lrs = [group["lr"] for group in fresh]

    def configure_optimizers(self) -> Any:
        optimiser = build_optimiser(self.method, self.settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, learning_rate_factor(self.settings, self.steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """By the norm of all gradients together.

        Lightning's own refuses a fused optimiser under autocast, which could unscale the gradients after they were
        clipped; bf16 scales no loss.
        """
        if gradient_clip_val:
            clipped = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(clipped, gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Between two looks at the loss the weights may have gone: such a state must not replace a good one.
        self._refuse_not_finite()
        wrong = [n for n, p in self.method.named_parameters() if p.requires_grad and not p.isfinite().all()]
        if wrong:
            raise TrainingError(f"{wrong[0]} is not finite after step {self.global_step}; {_CURE}")
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith(_TEACHER)}
        checkpoint["untrained"] = list(self.untrained or ())
        checkpoint["losses"] = self.losses.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        refuse_misfit(checkpoint, self.method, self.settings)
        self.parts.recount(checkpoint)
        if "losses" in checkpoint:
            self.losses.restore(checkpoint["losses"])
        if "untrained" in checkpoint:
            self.untrained = tuple(checkpoint["untrained"])
        # The teacher is frozen and is not saved with the run; Lightning wants every tensor all the same.
        own = {k: v for k, v in self.state_dict().items() if k.startswith(_TEACHER)}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **own}
