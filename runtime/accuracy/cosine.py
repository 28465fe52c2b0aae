"""Cosine of outputs, image by image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# Rows that are held in double precision at a time.
_BLOCK = 1024


def cosines(ours: Floats, theirs: Floats) -> npt.NDArray[np.float64]:
    """Cosine of each row with the same row of the other, [N, K] to [N]; of two zero rows it is 1."""
    starts = range(0, max(len(ours), 1), _BLOCK)
    return np.concatenate([_cosines(ours[i : i + _BLOCK], theirs[i : i + _BLOCK]) for i in starts])


def mean_of_worst(similar: npt.NDArray[np.float64], share: float = 0.01) -> float:
    """Mean of the lowest `share` of cosines [N], rounded up to whole images, so of one at least."""
    count = max(1, int(np.ceil(len(similar) * share)))
    return float(np.sort(similar)[:count].mean())


def _cosines(ours: Floats, theirs: Floats) -> npt.NDArray[np.float64]:
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    # One root of the product, so that equal rows give exactly 1.
    lengths = np.sqrt(np.einsum("nk,nk->n", a, a) * np.einsum("nk,nk->n", b, b))
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    products = np.einsum("nk,nk->n", a, b)
    similar = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return np.where(both_zero, 1.0, np.clip(similar, -1.0, 1.0))
