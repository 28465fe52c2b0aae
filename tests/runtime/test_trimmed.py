"""`edgemim.runtime.trimmed`: the trimmed mean and its interval: by hand, against scipy, and how often it is right."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgemim.runtime.trimmed import trimmed_mean


def test_worked_example() -> None:
    # Of 1 2 3 4 100 one is cut off at either end; winsorised 2 2 3 4 4 with the variance 4 / 4 = 1. The standard error
    # is sqrt(4 * 1 / (3 * 2)), and Student's quantile of two degrees of freedom at 95 % is 4.303.
    found = trimmed_mean(np.array([1.0, 100.0, 3.0, 2.0, 4.0]), level=0.95)
    half = 4.302653 * math.sqrt(4 / 6)
    assert found.mean == 3.0
    assert (found.low, found.high) == (pytest.approx(3 - half), pytest.approx(3 + half))


@pytest.mark.parametrize("n", [2, 4, 5, 8, 24, 60])
def test_it_is_what_scipy_gives(n: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs scipy")
    values = np.random.default_rng(n).standard_t(3, n)
    found = trimmed_mean(values, level=0.99)
    cut = int(0.2 * n)
    assert found.mean == pytest.approx(stats.trim_mean(values, 0.2))
    # Yuen's test of two samples, of which the second is a constant: its error is that of the first alone.
    yuen = stats.ttest_ind(values, np.zeros(n), trim=0.2, equal_var=False)
    quantile = stats.t.ppf(0.995, n - 2 * cut - 1)
    assert found.high is not None
    assert (found.high - found.mean) / quantile == pytest.approx(found.mean / yuen.statistic)


def test_a_single_value_has_no_interval_and_equal_ones_an_empty_one() -> None:
    assert (trimmed_mean(np.array([2.0]), level=0.99).low, trimmed_mean(np.array([2.0]), level=0.99).mean) == (None, 2)
    alike = trimmed_mean(np.full(8, 2.0), level=0.99)
    assert (alike.low, alike.mean, alike.high) == (2, 2, 2)


@pytest.mark.parametrize("n", [8, 24])
def test_the_interval_holds_the_truth_as_often_as_it_says_also_with_outliers(n: int) -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(0, 1, (2000, n)) + (rng.uniform(size=(2000, n)) < 0.05) * rng.choice([-10, 10], (2000, n))
    found = [trimmed_mean(row, level=0.99) for row in draws]
    held = np.mean([one.low <= 0 <= one.high for one in found if one.low is not None and one.high is not None])
    assert held > 0.98
