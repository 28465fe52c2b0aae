"""From which error on a tensor departs from its reference, and which module of a block is to blame for it.

fp32: more than the parity check accepts of outputs, at any element. Lower precisions round everywhere, so there
the noise is held against the signal, twice:

* too much: below `least_db`. For INT8 that is a cosine of 0.99, the least that outputs may have where no labels
  are at hand, if the noise is independent of the signal: 1 / (1 / 0.99^2 - 1) = 49 = 17 dB. For fp16 it is an error
  of 1 %, five times what a hundred independent roundings leave; bf16 has three bits less, which are 18 dB.
* too suddenly: more than `DROP_DB` below the block before, so nine tenths of the noise come from this block alone,
  and no more than `DROP_DB` above `least_db`. Where every block adds the same noise, it grows by 3 dB at the second
  and by less later. A block before that is as good as unrounded counts as if it had rounded ten times.

`rounding_db` is what rounding once leaves: for floats of p bits 6.02 p + 7.5 (the noise of a step is its square
over 12, the mantissa is spread logarithmically), for INT8 a normal distribution with its range at four sigma.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgemim.export.ladder.agreement import Agreement
from edgemim.export.parity import TOLERANCE

DROP_DB = 10.0


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What a precision may do; see above.

    Attributes:
        tolerance: Largest accepted difference, relative to the largest magnitude where that exceeds 1; None: any.
    """

    least_db: float
    rounding_db: float
    tolerance: float | None = None

    def threshold_db(self, before_db: float | None) -> float:
        """Least signal-to-noise ratio behind a block that has `before_db`; None: there is none."""
        if before_db is None or before_db >= self.rounding_db:
            before_db = self.rounding_db - DROP_DB
        return max(self.least_db, min(before_db - DROP_DB, self.least_db + DROP_DB))

    def departs(self, found: Agreement, before_db: float | None) -> bool:
        """Whether a tensor is no longer what the reference has."""
        if found.snr_db is None or found.max_abs is None or found.largest is None:
            return True
        if self.tolerance is not None:
            return found.max_abs > self.tolerance * max(1.0, found.largest)
        return found.snr_db < self.threshold_db(before_db)


LIMITS = {
    "fp32": Limit(least_db=80.0, rounding_db=152.0, tolerance=TOLERANCE),
    "fp16": Limit(least_db=40.0, rounding_db=73.7),
    "bf16": Limit(least_db=22.0, rounding_db=55.6),
    "int8": Limit(least_db=17.0, rounding_db=40.8),
}


def excused(
    found: Mapping[str, Agreement],
    sources: Mapping[str, Mapping[str, bool]],
    limit: Limit,
    before_db: float | None,
) -> set[str]:
    """Taps that depart without being wrong.

    A graph pass may scale and shift the channels of a tensor and undo that in the next layer (folded norms and
    LayerScale, SmoothQuant, batch norm). Such a tensor agrees but for a gain and an offset per channel, and whatever
    departs behind it is such a tensor too, or has weights that could have undone them. Where there are too few values
    to tell, nothing behind it may depart.

    Args:
        found: Everything measured, by tap.
        sources: For each tap measured, those that it is computed from, and whether through weights; in the graph's
            order.
        limit: Of the precision.
        before_db: Signal-to-noise ratio of the block before, where there is one.
    """
    departing = {name for name in found if limit.departs(found[name], before_db)}
    passed: set[str] = set()
    # Backwards, since an excuse may need that of what comes behind.
    for name in reversed([name for name in sources if name in departing]):
        behind = {other: before[name] for other, before in sources.items() if name in before}
        wrong = {other for other in behind if other in departing and other not in passed}
        aligned = found[name].aligned_db
        is_scaled = aligned is not None and aligned >= limit.threshold_db(before_db)
        could_undo = is_scaled and all(behind[other] for other in wrong)
        if behind and found[name].finite and (could_undo or (aligned is None and not wrong)):
            passed.add(name)
    return passed


def culprit(
    found: Mapping[str, Agreement],
    inside: Sequence[str],
    sources: Mapping[str, Mapping[str, bool]],
    limit: Limit,
    before_db: float | None,
) -> str | None:
    """The tap of a block that departs, is not excused, and loses most against what it is computed from, if any.

    Args:
        found, sources, limit, before_db: As `excused` takes them.
        inside: The block's taps, in the graph's order.
    """
    broken = [name for name in inside if found[name].snr_db is None]
    if broken:
        return broken[0]
    passed = excused(found, sources, limit, before_db)

    def loss(name: str) -> float:
        inputs = [
            found[other].aligned_db if other in passed else found[other].snr_db for other in sources.get(name, ())
        ]
        here = found[name].snr_db
        assert here is not None
        return min([limit.rounding_db, *(value for value in inputs if value is not None)]) - here

    suspects = (name for name in inside if name not in passed and limit.departs(found[name], before_db))
    return max(suspects, key=loss, default=None)
