"""Which states outlive the newest ones: every so many steps one for good in `kept/`, and the best one in `best/`.

A state gets there as a second name of the file in `last/`, so it costs no time, and no space until the first name is
gone; it was read back and verified before it had its first name.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from edgemim.artifact import sync_folder, write_bytes, writing
from edgemim.training.loop.module import TrainingModule
from edgemim.training.saving.state import BEST, KEPT, LAST, remove_old, states, step_of

# A file system that knows no second names, or none from one folder to the other.
_NO_LINKS = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)


class Retention:
    """Decides about each saved state whether it stays.

    Args:
        run: Folder of the run.
        every: Steps between two states that stay for good; 0: none does.
        newest: How many of the newest ones stay beside them.
    """

    def __init__(self, run: Path, every: int, newest: int = 2) -> None:
        self.run = run
        self.every = every
        self.newest = newest
        self._best: float | None = None
        self._best_step: int | None = None

    def is_due(self, step: int) -> bool:
        """Whether the state of this step has to be saved, to stay for good."""
        return self.every > 0 and step % self.every == 0

    def is_best(self, value: float | None) -> bool:
        """Whether a state of this value would be the best so far."""
        return value is not None and (self._best is None or value > self._best)

    def note(self, step: int, value: float | None) -> None:
        """Remember the value of a state, before that state is saved: it says itself which one is the best.

        Args:
            step: Of the state.
            value: Greater is better; None: nobody knows.
        """
        if self.is_best(value):
            self._best, self._best_step = value, step

    def keep(self, step: int) -> None:
        """Give the state of `step`, which lies in `last/`, its second names, and remove what is too old.

        It may be done once more, and is when a run goes on from that state: the process that had saved it may have
        been killed before it had come to this.

        Raises:
            OutputError: The disk is full, or the like.
        """
        saved = [state for state in states(self.run / LAST) if step_of(state) == step]
        if not saved:
            return
        if self.is_due(step):
            _name_again(saved[0], self.run / KEPT)
        if step == self._best_step:
            remove_old(self.run / BEST, _name_again(saved[0], self.run / BEST), keep=1)
        remove_old(self.run / LAST, saved[0], self.newest)

    def state(self) -> dict[str, Any]:
        """What `restore` takes, as plain values."""
        return {"best": self._best, "best_step": self._best_step}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what an earlier process saw."""
        self._best, self._best_step = state.get("best"), state.get("best_step")


def value_of(module: TrainingModule, step: int) -> float | None:
    """How good the weights after `step` are, greater being better; None where nobody knows.

    The k-NN accuracy of that very step in a run that measures it on its way, else the smoothed loss, negated.
    """
    if module.measures:
        return module.measured.get(step)
    smoothed = module.losses.smoothed
    return None if smoothed is None else -smoothed


def _name_again(state: Path, folder: Path) -> Path:
    new = folder / state.name
    with writing(folder):
        folder.mkdir(exist_ok=True)
        if new.exists():
            return new
        try:
            os.link(state, new)
            sync_folder(folder)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            write_bytes(new, state.read_bytes())
    return new
