"""The mean of what the parts of a step report."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


class StepMean:
    """Adds up scalars over the parts of a step, on their device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """The scalars of one more part."""
        if self._count == 0:
            self._sums = dict(values)
        else:
            self._sums = {name: self._sums[name] + value for name, value in values.items()}
        self._count += 1

    def take(self) -> dict[str, Tensor]:
        """The means of what was added, of which nothing is kept."""
        means = self._sums if self._count == 1 else {name: value / self._count for name, value in self._sums.items()}
        self._sums, self._count = {}, 0
        return means
