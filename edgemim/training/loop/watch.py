"""The first number of a run that is not finite, found without waiting for the device at every step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_NEVER = 1 << 62


class FiniteWatch:
    """Remembers, on the device, at which step each named number first was infinite or no number."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._step: Tensor | None = None
        self._value: Tensor | None = None

    def see(self, values: Mapping[str, Tensor], step: int) -> None:
        """Look at the scalars of a step; nothing is copied to the host."""
        now = torch.stack([v.detach().float() for v in values.values()])
        if self._step is None or self._value is None or self._names != tuple(values):
            self._names = tuple(values)
            self._step = torch.full(now.shape, _NEVER, dtype=torch.int64, device=now.device)
            self._value = torch.zeros_like(now)
        first = (self._step == _NEVER) & ~now.isfinite()
        self._value = torch.where(first, now, self._value)
        self._step = torch.where(first, step, self._step)

    def first(self) -> tuple[str, float, int] | None:
        """Name, value and step of the first one, terms of a loss before their sum; None while all were finite."""
        if self._step is None or self._value is None:
            return None
        step = int(self._step.min())
        if step == _NEVER:
            return None
        where = int(self._step.argmin())
        return self._names[where], float(self._value[where]), step
