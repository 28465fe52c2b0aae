"""Linear centred kernel alignment: whether two sets of outputs hold the same information, whatever its direction.

It is 1 where one set is the other turned, mirrored or scaled as a whole, which a cosine takes for a difference, and
nears 0 where they have nothing to do with each other.

Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019, arXiv:1905.00414,
    section 3, equations 3 and 4: the biased estimator, |Y'X|^2 / (|X'X| |Y'Y|) of centred columns.
Differs: Of both more than 4,096 images and as many columns, 4,096 images spread evenly over all are used.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgemim.runtime.accuracy.cosine import Floats

_Doubles = npt.NDArray[np.float64]

# Square of it: numbers in the largest matrix that is held, 134 MB.
_LARGEST = 4096
_BLOCK = 1024


def linear_cka(ours: Floats, theirs: Floats) -> float | None:
    """Alignment in [0, 1] of outputs [N, K] and [N, L] on the same N images, computed in double precision.

    Takes O(N K^2) where there are more images than columns, else O(N^2 K).

    Returns:
        None where the outputs of one set are the same for all images, so that there is nothing to align.
    """
    if not (_vary(ours) and _vary(theirs)):
        return None
    width = max(ours.shape[1], theirs.shape[1])
    if min(len(ours), width) > _LARGEST:
        chosen = np.linspace(0, len(ours) - 1, _LARGEST).round().astype(np.int64)
        ours, theirs = ours[chosen], theirs[chosen]
    products = _by_columns if width <= len(ours) else _by_images
    across, own, other = products(ours, theirs)
    return min(1.0, float(across / np.sqrt(own * other)))


def _by_columns(x: Floats, y: Floats) -> tuple[float, float, float]:
    """Squared norms of Y'X, X'X and Y'Y."""
    x_mean, y_mean = x.mean(axis=0, dtype=np.float64), y.mean(axis=0, dtype=np.float64)
    across = np.zeros((y.shape[1], x.shape[1]))
    own, other = (np.zeros((width, width)) for width in (x.shape[1], y.shape[1]))
    for start in range(0, len(x), _BLOCK):
        a, b = x[start : start + _BLOCK] - x_mean, y[start : start + _BLOCK] - y_mean
        across += b.T @ a
        own += a.T @ a
        other += b.T @ b
    return _squared(across), _squared(own), _squared(other)


def _by_images(x: Floats, y: Floats) -> tuple[float, float, float]:
    """The same three numbers from products of images with images: tr(XX'YY') = |Y'X|^2."""
    a, b = (_gram(values) for values in (x, y))
    return float(np.vdot(a, b)), _squared(a), _squared(b)


def _gram(values: Floats) -> _Doubles:
    centred = values - values.mean(axis=0, dtype=np.float64)
    gram: _Doubles = centred @ centred.T
    return gram


def _squared(matrix: _Doubles) -> float:
    return float(np.vdot(matrix, matrix))


def _vary(values: Floats) -> bool:
    """Whether any column has two different numbers in it; exact, which a variance is not."""
    return bool((values != values[:1]).any())
