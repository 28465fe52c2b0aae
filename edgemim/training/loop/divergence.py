"""A loss that runs away: found from the numbers that are logged, before the run has ruined its last good state.

A loss that is no number is the business of `watch.py`; this one is about losses that stay finite and only grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

_WINDOW = 5
_FLOOR = 0.05
_TOTAL = "loss"


class LossWatch:
    """Compares the smoothed loss with its lowest value so far.

    Smoothed is the median of the last five looks: one bad batch does not move it, and nothing is judged before the
    fifth. A loss that has come near zero jumps about by large factors without harm, so the lowest value does not
    count as less than a twentieth of the first one.

    Args:
        factor: The run is diverging when the smoothed loss is more than this times its lowest; 0: never.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._recent: dict[str, list[float]] = {}
        self._first: dict[str, float] = {}
        self._lowest: dict[str, float] = {}

    @property
    def smoothed(self) -> float | None:
        """The smoothed loss; None before the fifth look."""
        recent = self._recent.get(_TOTAL, [])
        return median(recent) if len(recent) == _WINDOW else None

    @property
    def suspect(self) -> bool:
        """Whether the last look alone would be too high: no moment to replace a good state."""
        recent = self._recent.get(_TOTAL, [])
        return bool(recent) and self._is_above(_TOTAL, recent[-1])

    def see(self, metrics: Mapping[str, float]) -> str | None:
        """Look at the losses of a logged step.

        Args:
            metrics: `loss`, and its terms as `loss/NAME`; other names are not looked at.

        Returns:
            What is wrong, with the numbers; None while nothing is.
        """
        for name, value in metrics.items():
            if name == _TOTAL or _is_term(name):
                self._add(name, value)
        smoothed = self.smoothed
        if smoothed is None or not self._is_above(_TOTAL, smoothed):
            return None
        return (
            f"the loss is diverging: smoothed {smoothed:.4g}, {smoothed / self._floor(_TOTAL):.1f} times the lowest, "
            f"{self._lowest[_TOTAL]:.4g}{self._culprit()}"
        )

    def state(self) -> dict[str, Any]:
        """What `restore` takes, as plain values."""
        return {"recent": self._recent, "first": self._first, "lowest": self._lowest}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what an earlier process saw."""
        self._recent = {name: list(values) for name, values in state["recent"].items()}
        self._first = dict(state["first"])
        self._lowest = dict(state["lowest"])

    def _add(self, name: str, value: float) -> None:
        recent = [*self._recent.get(name, []), value][-_WINDOW:]
        self._recent[name] = recent
        if len(recent) == _WINDOW:
            now = median(recent)
            self._first.setdefault(name, now)
            self._lowest[name] = min(now, self._lowest.get(name, now))

    def _floor(self, name: str) -> float:
        return max(self._lowest[name], _FLOOR * abs(self._first[name]))

    def _is_above(self, name: str, value: float) -> bool:
        return bool(self.factor) and name in self._lowest and 0 < self._floor(name) * self.factor < value

    def _culprit(self) -> str:
        """The term that has grown most, where the loss has several."""
        growth = {
            name: median(self._recent[name]) / self._floor(name)
            for name in self._lowest
            if _is_term(name) and self._floor(name) > 0
        }
        if len(growth) < 2:
            return ""
        name = max(growth, key=lambda n: growth[n])
        return f"; above all {name}, {median(self._recent[name]):.4g}, whose lowest was {self._lowest[name]:.4g}"


def _is_term(name: str) -> bool:
    return name.startswith("loss/") and not name.endswith("_unscaled")
