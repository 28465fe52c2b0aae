"""Saving the state as a run goes on, and stopping when a signal asks for it."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L

from edgemim.errors import Preempted
from edgemim.training.loop.parts import ends_step
from edgemim.training.saving.state import LAST


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run whose state was then saved."""


class SaveState(L.Callback):
    """Saves the state every `minutes`, at the end, and when a signal asks the run to stop.

    The first SIGINT or SIGTERM lets the step finish, saves and stops; a second SIGINT stops at once.

    Args:
        run: Folder of the run; states go to its `last/`.
        minutes: Between two saves.

    Raises:
        Interrupted: After SIGINT.
        Preempted: After SIGTERM.
    """

    def __init__(self, run: Path, minutes: float) -> None:
        self.run = run
        self.seconds = minutes * 60
        self._saved_at = 0.0
        self._signal: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not ends_step(trainer, batch_idx):
            return
        due = time.monotonic() - self._saved_at > self.seconds
        if due or self._signal is not None or trainer.global_step == trainer.max_steps:
            trainer.save_checkpoint(self.run / LAST)
            self._saved_at = time.monotonic()
        if self._signal is not None:
            what = f"stopped at step {trainer.global_step} of {trainer.max_steps}; its state is in {self.run / LAST}"
            if self._signal == signal.SIGTERM:
                raise Preempted(f"{what}; run the same command with --resume to go on")
            raise Interrupted(f"{what}; run the same command with --resume to go on")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
