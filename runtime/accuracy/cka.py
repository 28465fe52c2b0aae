"""Linear centred kernel alignment: whether two sets of outputs hold the same information, whatever its direction.

It is 1 where one set is the other turned, mirrored or scaled as a whole, which a cosine takes for a difference, and 0
on average where they have nothing to do with each other, however few the images and however many the columns.

Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019, arXiv:1905.00414,
    section 3 (the measure, whose own estimator is about K / (K + N) of unrelated outputs);
    Song et al., "Feature Selection via Dependence Maximization", JMLR 13 (2012), section 2.4 (the unbiased estimator
    of HSIC, which stands in for theirs here); Nguyen et al., "Do Wide and Deep Networks Learn the Same Things?",
    ICLR 2021, arXiv:2010.15327, section 2 (the two put together).
Differs: Of linear kernels and centred columns the terms of the unbiased estimator come down to |Y'X|^2 and the squared
    length of every row. Of both more than 4,096 images and as many columns, 4,096 images spread evenly over all
    are used.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgemim.runtime.accuracy.cosine import Floats

_Doubles = npt.NDArray[np.float64]

# Square of it: numbers in the largest matrix that is held, 134 MB.
_LARGEST = 4096
_BLOCK = 1024
# The estimator divides by n - 3.
_LEAST_IMAGES = 4
# Of the squared norm: less than this is what rounding leaves of nothing.
_NOTHING = 1e-12


def linear_cka(ours: Floats, theirs: Floats) -> float | None:
    """Alignment of outputs [N, K] and [N, L] on the same N images, computed in double precision.

    Takes O(N K^2) where there are more images than columns, else O(N^2 K).

    Returns:
        At most 1; by chance a little below 0 where the two have nothing to do with each other. None of fewer than four
        images, and where the outputs of one set are the same for all images, or for all but one: there is nothing to
        align.
    """
    if len(ours) < _LEAST_IMAGES or not (_vary(ours) and _vary(theirs)):
        return None
    width = max(ours.shape[1], theirs.shape[1])
    if min(len(ours), width) > _LARGEST:
        chosen = np.linspace(0, len(ours) - 1, _LARGEST).round().astype(np.int64)
        ours, theirs = ours[chosen], theirs[chosen]
    products = _by_columns if width <= len(ours) else _by_images
    x, y = _lengths(ours), _lengths(theirs)
    across, own, other = products(ours, theirs)
    hsic_x, hsic_y = _unbiased(own, x, x), _unbiased(other, y, y)
    if hsic_x <= _NOTHING * own or hsic_y <= _NOTHING * other:
        return None
    return min(1.0, float(_unbiased(across, x, y) / np.sqrt(hsic_x * hsic_y)))


def _unbiased(squared_norm: float, x: _Doubles, y: _Doubles) -> float:
    """n (n - 3) times the unbiased HSIC of linear kernels, from |Y'X|^2 and the squared lengths of the rows.

    With the diagonals of the kernels XX' and YY' left out, their rows add up to -x and -y, since the columns are
    centred: of Song et al.'s three terms remain |Y'X|^2 - x'y, (sum x)(sum y) / (n - 1)(n - 2) and -2 x'y / (n - 2).
    """
    n = len(x)
    return squared_norm - n / (n - 2) * float(x @ y) + float(x.sum() * y.sum()) / ((n - 1) * (n - 2))


def _lengths(values: Floats) -> _Doubles:
    """Squared length of every centred row, [N]."""
    mean = values.mean(axis=0, dtype=np.float64)
    blocks = (values[start : start + _BLOCK] - mean for start in range(0, len(values), _BLOCK))
    return np.concatenate([np.einsum("ij,ij->i", block, block) for block in blocks])


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
