"""How long a combination will take, from those that are done: what still fits the minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgemim.pipeline.sweep.combinations import Combination


@dataclass(kw_only=True)
class Experience:
    """Seconds of the combinations that were measured, by their cost."""

    known: list[tuple[float, float]] = field(default_factory=list)

    def add(self, cost: float, seconds: float) -> None:
        """One that was measured; of one that failed, the seconds say nothing about the others."""
        self.known.append((cost, seconds))

    def estimate(self, cost: float) -> float | None:
        """Seconds of a combination: those of the one nearest in cost, in proportion where it costs more.

        Too much rather than too little, since a part of the time does not grow with the cost. None without experience.
        """
        if not self.known:
            return None
        near, seconds = min(self.known, key=lambda one: max(one[0], cost) / max(min(one[0], cost), 1.0))
        return seconds * max(1.0, cost / max(near, 1.0))

    def left(self, combinations: Sequence[Combination]) -> float | None:
        """Seconds of several; None without experience."""
        estimates = [self.estimate(combination.cost) for combination in combinations]
        known = [seconds for seconds in estimates if seconds is not None]
        return sum(known) if len(known) == len(estimates) else None


def in_words(seconds: float | None) -> str:
    """`about 40 s left`, `about 7 min left`; empty where nobody knows."""
    if seconds is None:
        return ""
    return f"about {seconds:.0f} s left" if seconds < 90 else f"about {seconds / 60:.0f} min left"
