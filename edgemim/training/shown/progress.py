"""What a person sees while a run goes on: a bar on a terminal, a line now and then elsewhere; on stderr."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from edgemim.training.loop.parts import ends_step

_LINES = 4
_SECONDS = 600.0


class ProgressCallback(L.Callback):
    """Steps, images/s, loss, gradient norm, data wait, k-NN accuracy where it is measured, and the time left.

    Where there is no terminal, a line comes at every quarter of the run and after ten minutes without one.

    Args:
        title: Name of the run.
        batch_size: Images per step.
        console: Where to write; stderr by default.
    """

    def __init__(self, title: str, batch_size: int, console: Console | None = None) -> None:
        self.title = title
        self.batch_size = batch_size
        self.console = console or Console(stderr=True)
        self.images_per_second = 0.0
        self._started = 0.0
        self._told = 0.0
        self._first_step = 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = self._told = time.monotonic()
        self._first_step = trainer.global_step
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, TextColumn("{task.fields[numbers]}"), console=self.console)
            self._bar.start()
            total = int(trainer.max_steps)
            self._task = self._bar.add_task(self.title, total=total, completed=trainer.global_step, numbers="")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not ends_step(trainer, batch_idx):
            return
        done = trainer.global_step - self._first_step
        now = time.monotonic()
        self.images_per_second = done * self.batch_size / max(1e-9, now - self._started)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=trainer.global_step, numbers=self._numbers(pl_module))
        elif _is_milestone(trainer.global_step, int(trainer.max_steps)) or now - self._told > _SECONDS:
            self._told = now
            share = f"{trainer.global_step}/{trainer.max_steps}"
            left = timedelta(seconds=round((trainer.max_steps - trainer.global_step) * (now - self._started) / done))
            line = f"{self.title} {share} {self._numbers(pl_module)}, {left} left"
            self.console.print(line, highlight=False, soft_wrap=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _numbers(self, module: L.LightningModule) -> str:
        metrics: dict[str, float] = module.metrics
        said = f"{self.images_per_second:.0f} images/s"
        if "loss" in metrics:  # a run that goes on has to come to a step that is logged first
            said += f" loss {metrics['loss']:.4f}"
        if "gradient_norm" in metrics:
            said += f", gradient {metrics['gradient_norm']:.3g}, data wait {metrics['data_wait']:.0%}"
        return said + "".join(f", k-NN {top1:.3f}" for top1 in module.measured.values())


def _is_milestone(step: int, steps: int) -> bool:
    return step * _LINES // steps > (step - 1) * _LINES // steps
