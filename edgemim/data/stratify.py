"""Holding images out of a set: deterministic, and with every class in its share."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edgemim.errors import ConfigError, DataError

Rows = npt.NDArray[np.int64]


def holdout_indices(labels: npt.NDArray[np.int64] | None, *, count: int, share: float, seed: int) -> tuple[Rows, Rows]:
    """Split `range(count)` into rows to keep and rows to hold out, both sorted.

    `ceil(share * count)` rows are held out. With labels, each class gives its share, to within one row, and
    gives up its last row only when there are no others. The same arguments give the same rows on every
    machine and version.

    Args:
        labels: int64 [count], or None to draw from all rows alike.
        count: Number of rows.
        share: Share held out, in (0, 1).
        seed: Which of the possible splits.

    Raises:
        ConfigError: `share` is out of range.
        DataError: There are too few rows for two parts.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the share held out for testing must lie in (0, 1); got {share}")
    # RandomState's streams are frozen; those of default_rng may change with NumPy.
    rng = np.random.RandomState(seed)
    order = rng.permutation(count)
    groups = [order] if labels is None else [order[labels[order] == c] for c in np.unique(labels)]
    # Rounded first, since 0.1 * 30 is a little more than 3.
    wanted = math.ceil(round(share * count, 6))
    if wanted >= count:
        raise DataError(f"{count} images are too few to hold {wanted} out for testing; add images or a test set")
    taken = _apportion(np.array([len(g) for g in groups]), share, wanted)
    held = np.sort(np.concatenate([g[:n] for g, n in zip(groups, taken, strict=True)]))
    return np.setdiff1d(np.arange(count), held).astype(np.int64), held.astype(np.int64)


def _apportion(sizes: Rows, share: float, total: int) -> Rows:
    """How many rows each group gives, `total` in all: its share rounded down, then by largest remainders."""
    quotas = np.round(sizes * share, 6)
    taken: Rows = np.minimum(np.floor(quotas).astype(np.int64), sizes - 1)
    for spared in (1, 0):
        for group in np.argsort(-(quotas - taken), kind="stable"):
            if taken.sum() < total and taken[group] < sizes[group] - spared:
                taken[group] += 1
    return taken
