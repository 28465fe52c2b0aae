"""What a person sees while a run goes on: a bar on a terminal, a line now and then elsewhere; on stderr."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from edgemim.training.loop.parts import ends_step

_LINES = 4


class ProgressCallback(L.Callback):
    """Steps, images/s, loss and the time left.

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
        self._first_step = 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.monotonic()
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
        self.images_per_second = done * self.batch_size / max(1e-9, time.monotonic() - self._started)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=trainer.global_step, numbers=self._numbers(pl_module))
        elif _is_milestone(trainer.global_step, int(trainer.max_steps)):
            share = f"{trainer.global_step}/{trainer.max_steps}"
            self.console.print(f"{self.title} {share} {self._numbers(pl_module)}", highlight=False)

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
        return f"{self.images_per_second:.0f} images/s loss {metrics.get('loss', float('nan')):.4f}"


def _is_milestone(step: int, steps: int) -> bool:
    return step * _LINES // steps > (step - 1) * _LINES // steps
