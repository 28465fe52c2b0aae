"""Saving the state as a run goes on, and stopping when a signal asks for it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L

from edgemim.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, EndedElsewhere, Preempted
from edgemim.training.loop.agreement import Agreement
from edgemim.training.loop.parts import ends_step
from edgemim.training.loop.processes import ALONE, Team
from edgemim.training.saving.retention import Retention, value_of
from edgemim.training.saving.signals import PREEMPT, StopSignals
from edgemim.training.saving.state import LAST


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run whose state was then saved."""


class SaveState(L.Callback):
    """Saves the state every `minutes`, at the end, and when a signal asks the run to stop.

    The first SIGINT, SIGTERM or SIGUSR1 lets the step finish, saves and stops; a second SIGINT stops at once. Where
    there are several processes all of them save and stop together, a step after one of them was asked to.

    Args:
        run: Folder of the run; states go to its `last/`.
        minutes: Between two saves.
        retention: Says which states stay beside the newest ones.
        team: The processes of the run, all of which have this callback.

    Raises:
        Interrupted: After SIGINT.
        Preempted: After SIGTERM or SIGUSR1.
        EndedElsewhere: After any of them, where the first process tells it.
    """

    def __init__(self, run: Path, minutes: float, retention: Retention, team: Team = ALONE) -> None:
        self.run = run
        self.seconds = minutes * 60
        self.retention = retention
        self._team = team
        self._agreement = Agreement(team)
        self._signals = StopSignals()
        self._saved_at = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at = time.monotonic()
        self._signals.install()
        if trainer.global_step and self._team.first:
            self.retention.keep(trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not ends_step(trainer, batch_idx):
            return
        last = trainer.global_step == trainer.max_steps
        overdue = self._team.first and time.monotonic() - self._saved_at > self.seconds
        # The signals are looked at once: one that comes after this is heard at the next step.
        late, stop = self._agreement.on(overdue, self._signals.asked, at_once=last)
        if stop or last or self._is_due(pl_module, trainer.global_step, late=bool(late)):
            self._save(trainer, pl_module)
        if stop and not self._team.first:
            raise EndedElsewhere(EXIT_PREEMPTED if stop == PREEMPT else EXIT_INTERRUPTED)
        if stop:
            what = f"stopped at step {trainer.global_step} of {trainer.max_steps}; its state is in {self.run / LAST}"
            if stop == PREEMPT:
                raise Preempted(f"{what}; run the same command with --resume to go on")
            raise Interrupted(f"{what}; run the same command with --resume to go on")

    def state_dict(self) -> dict[str, Any]:
        """How good the best state so far is."""
        return self.retention.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what an earlier process saved."""
        self.retention.restore(state_dict)

    def _is_due(self, module: L.LightningModule, step: int, *, late: bool) -> bool:
        if self.retention.is_due(step):
            return True
        # Where the loss has just jumped, the good states from before it must not be replaced.
        late = late and not module.losses.suspect
        return late or (module.measures and self.retention.is_best(value_of(module, step)))

    def _save(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        step = trainer.global_step
        self.retention.note(step, value_of(module, step))
        trainer.save_checkpoint(self.run / LAST)  # by all: it waits for the first, which alone writes
        if self._team.first:
            self.retention.keep(step)
        self._saved_at = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._signals.restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._signals.restore()
