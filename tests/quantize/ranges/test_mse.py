"""The threshold of the smallest squared error, against quantizing the values themselves at many thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from edgemim.quantize.ranges.max import Max
from edgemim.quantize.ranges.mse import Mse, squared_error


def true_error(values, threshold, levels):
    """Quantize and compare, value by value."""
    step = threshold / levels
    quantized = np.clip(np.round(values / step), -levels, levels) * step
    return float(np.square(quantized - values).sum())


@pytest.mark.parametrize("levels", [7, 127, 255])
def test_no_threshold_of_a_fine_grid_is_clearly_better(sample, levels):
    values = sample.values.astype(np.float64)
    threshold = Mse().threshold(sample.observed, levels=levels)
    grid = sample.observed.maximum * np.concatenate([np.geomspace(0.01, 1, 150), np.linspace(0.5, 1, 50)])
    best = min(true_error(values, t, levels) for t in grid)
    # The histogram knows a value up to 2^-7 of it, but near its minimum the error is flat: half a percent at most.
    assert true_error(values, threshold, levels) <= best * 1.01 + 1e-12


@pytest.mark.parametrize("levels", [7, 127, 255])
def test_the_error_that_is_computed_is_that_of_values_spread_within_the_bins(samples, levels):
    for name in ("normal", "gelu", "heavy"):
        edges, counts = samples[name].observed.filled()
        thresholds = edges[-1] * np.array([0.05, 0.3, 0.7, 1.0])
        # A hundred values evenly in each bin instead of an integral: the midpoint rule misses the corners of the error.
        inside = (np.arange(100) + 0.5) / 100
        values = edges[:-1, None] + inside * np.diff(edges)[:, None]
        for threshold, found in zip(thresholds, squared_error(edges, counts, thresholds, levels), strict=True):
            step = threshold / levels
            errors = np.square(np.clip(np.round(values / step), 0, levels) * step - values).mean(axis=1)
            assert found == pytest.approx((errors * counts).sum(), rel=1e-3)


def test_by_hand():
    # One bin from 0 to 2 with one value: at T = 1 and one level, u = x is rounded to 0 up to 1/2 and to 1 beyond, cut
    # off from 1 on: (1/24 + 1/24 + 1/3) / 2 = 5/24.
    edges, counts = np.array([0.0, 2.0]), np.array([1])
    assert squared_error(edges, counts, np.array([1.0]), 1)[0] == pytest.approx(5 / 24, rel=1e-12)
    # At T = 2 the step is 2: x^2 up to 1 and (2 - x)^2 beyond: (1/3 + 1/3) / 2.
    assert squared_error(edges, counts, np.array([2.0]), 1)[0] == pytest.approx(1 / 3, rel=1e-12)


def test_it_is_near_the_optimum_of_a_laplace_distribution(sample_of):
    # Banner et al. 2019, table of optimal clipping: 8 bits, 9.89 times the scale parameter.
    rng = np.random.default_rng(0)
    values = rng.laplace(size=2_000_000)
    assert Mse().threshold(sample_of(values).observed, levels=127) == pytest.approx(9.89, rel=0.05)


def test_more_levels_cut_off_less(sample):
    few, many = (Mse().threshold(sample.observed, levels=levels) for levels in (7, 255))
    assert few <= many * (1 + 2**-7)


def test_cutting_an_outlier_off_is_better_than_keeping_it(samples):
    sample = samples["outlier"]
    values = sample.values.astype(np.float64)
    kept = true_error(values, Max().threshold(sample.observed, levels=127), 127)
    assert true_error(values, Mse().threshold(sample.observed, levels=127), 127) < kept
