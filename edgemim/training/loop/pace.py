"""Where the time of a run goes: how many images it sees in a second, and how long it stands waiting for them."""

from __future__ import annotations

import time

from lightning.pytorch.profilers import Profiler

# Lightning's name for fetching the next batch of the training loader.
_FETCH = "train_dataloader_next"


class Pace(Profiler):
    """Measures a run through the hooks that Lightning has for profilers; nothing waits for the device.

    The wait is that of the training process. On a GPU, whose work is queued, it is the most that the device can have
    stood still for want of images.

    Args:
        images_per_step: Of all processes together.
    """

    def __init__(self, images_per_step: int) -> None:
        super().__init__()
        self.images_per_step = images_per_step
        self._fetching = 0.0
        self._waited = 0.0
        self._whole_wait = 0.0
        self._began: float | None = None
        self._since = 0.0
        self._step = 0

    def start(self, action_name: str) -> None:
        """Lightning begins something."""
        if action_name.endswith(_FETCH):
            self._fetching = time.monotonic()

    def stop(self, action_name: str) -> None:
        """Lightning is done with it."""
        if action_name.endswith(_FETCH):
            waited = time.monotonic() - self._fetching
            self._waited += waited
            if self._began is None:
                # The first batch comes when the workers have started, once per run: no sign of how a step goes.
                self._began = time.monotonic()
            else:
                self._whole_wait += waited

    def begin(self, step: int) -> None:
        """The steps begin, with this one."""
        self._since, self._waited, self._step = time.monotonic(), 0.0, step

    def take(self, step: int) -> dict[str, float]:
        """Images per second and the share of the time spent waiting, since the last call.

        Args:
            step: Of whose end this is called.
        """
        now = time.monotonic()
        seconds, steps = max(1e-9, now - self._since), step + 1 - self._step
        taken = {
            "images_per_second": steps * self.images_per_step / seconds,
            "data_wait": min(1.0, self._waited / seconds),
        }
        self.begin(step + 1)
        return taken

    @property
    def data_wait(self) -> float:
        """Share of the time since the first batch that was spent waiting for the next, in [0, 1]."""
        if self._began is None:
            return 0.0
        return min(1.0, self._whole_wait / max(1e-9, time.monotonic() - self._began))
