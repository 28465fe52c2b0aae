"""The signals that ask a run to stop, noted as they come and answered between two steps.

SIGINT is a person's Ctrl-C. SIGTERM comes from a system that needs the machine, and SIGUSR1 some time before it where
SLURM was asked to warn (`--signal=USR1@60`).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgemim.errors import Preempted

INTERRUPT, PREEMPT = 1, 2

_MEANING = {signal.SIGINT: INTERRUPT, signal.SIGTERM: PREEMPT, signal.SIGUSR1: PREEMPT}


@contextmanager
def preemptible() -> Iterator[None]:
    """Let SIGTERM and SIGUSR1 end a run at once, before its steps and after them: there is nothing new to save then.

    Raises:
        Preempted: One of them came.
    """

    def stop(number: int, frame: Any) -> None:
        raise Preempted("stopped outside the steps of the run; run the same command with --resume to go on")

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGTERM, signal.SIGUSR1):
            before[each] = signal.signal(each, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopSignals:
    """Handlers of the signals, from `install` to `restore`; the second SIGINT stops at once.

    Attributes:
        asked: 0, `INTERRUPT` or `PREEMPT`.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Note the signals from now on; only the main thread of a program can."""
        if threading.current_thread() is threading.main_thread():
            for number in _MEANING:
                self._before[number] = signal.signal(number, self._note)

    def restore(self) -> None:
        """Let the handlers from before have the signals again."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: Any) -> None:
        meaning = _MEANING[signal.Signals(number)]
        if self.asked and meaning == INTERRUPT:
            raise KeyboardInterrupt
        self.asked = max(self.asked, meaning)
