"""Settings of the length, optimiser and schedule of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgemim.errors import ConfigError

_NOT_NEGATIVE = (
    "base_lr",
    "lr_batch",
    "min_lr",
    "step_factor",
    "weight_decay",
    "clip_grad",
    "save_minutes",
    "save_every",
    "diverged_at",
    "picture_steps",
    "picture_epochs",
)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Length, optimiser and schedule.

    Args:
        epochs: Passes over the data; used where `steps` is 0.
        steps: Optimiser steps.
        batch_size: Images per step, of all processes together.
        accumulate: Passes that a process makes over its share of a batch before it updates; more of them need less
            memory.
        shard_teacher: Spread the blocks of the frozen teacher over the processes, each holding a share of its weights:
            for a teacher too large for one device.
        optimiser: `adamw`, or `lamb`, which scales the update of each tensor by its norm, for very large batches.
        base_lr: Learning rate per `lr_batch` images.
        lr_batch: The rate is base_lr * batch_size / lr_batch; 0: base_lr as it stands.
        schedule: How the rate falls after the warm-up: `cosine` or `linear` to min_lr, or `step`: constant, and
            from `step_at` on multiplied by `step_factor`.
        step_at: Share of all steps after which the rate of the `step` schedule falls.
        step_factor: By what it is then multiplied.
        min_lr: Rate at the end of the cosine or the line.
        warmup: Share of all steps in which the rate rises from 0.
        weight_decay: The optimiser's; not on biases and other 1-D tensors.
        weight_decay_end: To which the weight decay goes along half a cosine; None: it stays.
        betas: The optimiser's.
        clip_grad: Largest norm of all gradients together; 0: no clipping.
        layer_decay: Factor on the rate from one block to the one before it (fine-tuning); 1: none.
        label_smoothing: Of the classification loss, in [0, 1).
        precision: `fp32`, `bf16` (autocast), or `fastest`: bf16 where the processor multiplies it, else fp32.
        compile: Whether the blocks of the networks are compiled: `on`, `off`, or `auto`, where the run is long enough
            and a compiler makes its arithmetic faster.
        workers: Processes that read and augment; 0: the training process itself; -1: as many as pay.
        max_unreadable: Share of the images, in [0, 1), that a run goes on without when they cannot be read; the number
            is rounded down, so that a small set has to be whole.
        ema: Decay of the moving average of the weights, which then ships instead of the last ones; 0: none.
        diverged_at: The run stops when the smoothed loss is this many times its lowest; 0: never.
        save_minutes: Time between two saved states.
        save_keep: How many of the newest states are kept.
        save_every: Steps between two states that are kept for good; 0: none is.
        picture_steps: Steps between two pictures; 0: as `picture_epochs` says.
        picture_epochs: Epochs between two pictures; 0: ten pictures in a run.
    """

    epochs: float = 0.0
    steps: int = 0
    batch_size: int = 256
    accumulate: int = 1
    shard_teacher: bool = False
    optimiser: Literal["adamw", "lamb"] = "adamw"
    base_lr: float = 1.5e-4
    lr_batch: int = 256
    schedule: Literal["cosine", "linear", "step"] = "cosine"
    step_at: float = 0.875
    step_factor: float = 0.1
    min_lr: float = 0.0
    warmup: float = 0.05
    weight_decay: float = 0.05
    weight_decay_end: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    clip_grad: float = 0.0
    layer_decay: float = 1.0
    label_smoothing: float = 0.0
    precision: Literal["fp32", "bf16", "fastest"] = "fastest"
    compile: Literal["auto", "on", "off"] = "auto"
    workers: int = -1
    max_unreadable: float = 0.001
    ema: float = 0.0
    diverged_at: float = 10.0
    save_minutes: float = 5.0
    save_keep: int = 2
    save_every: int = 0
    picture_steps: int = 0
    picture_epochs: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs <= 0 and self.steps <= 0:
            raise ConfigError("a run needs a length: give --epochs or --steps")
        for name in ("batch_size", "accumulate", "save_keep"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} must be at least 1; got {getattr(self, name)}")
        if self.epochs < 0 or self.steps < 0:
            raise ConfigError(f"a run needs a length: got training.epochs {self.epochs}, training.steps {self.steps}")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ConfigError(f"training.{name} must not be negative; got {getattr(self, name)}")
        if self.weight_decay_end is not None and self.weight_decay_end < 0:
            raise ConfigError(f"training.weight_decay_end must not be negative; got {self.weight_decay_end}")
        if self.workers < -1:
            raise ConfigError(f"training.workers must be -1 (as many as pay) or more; got {self.workers}")
        if not 0 <= self.max_unreadable < 1:
            raise ConfigError(f"training.max_unreadable must lie in [0, 1); got {self.max_unreadable}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"training.betas must lie in [0, 1); got {self.betas}")
        if not 0 <= self.warmup <= 1:
            raise ConfigError(f"training.warmup is a share of the run, in [0, 1]; got {self.warmup}")
        if not 0 <= self.step_at <= 1:
            raise ConfigError(f"training.step_at is a share of the run, in [0, 1]; got {self.step_at}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"training.ema must lie in [0, 1); got {self.ema}")
        if 0 < self.diverged_at <= 1:
            raise ConfigError(f"training.diverged_at must be more than 1, or 0 for never; got {self.diverged_at}")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"training.layer_decay must lie in (0, 1]; got {self.layer_decay}")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"training.label_smoothing must lie in [0, 1); got {self.label_smoothing}")

    def total_steps(self, images: int) -> int:
        """Optimiser steps of the whole run over a set of `images`."""
        return self.steps or self.steps_of(self.epochs, images)

    def steps_of(self, epochs: float, images: int) -> int:
        """Optimiser steps, at least 1, of so many epochs over a set of `images`."""
        return max(1, round(epochs * images / self.batch_size))

    @property
    def learning_rate(self) -> float:
        """Peak rate: base_lr scaled by the batch (Goyal et al., arXiv:1706.02677, the linear rule)."""
        return self.base_lr * self.batch_size / self.lr_batch if self.lr_batch else self.base_lr
