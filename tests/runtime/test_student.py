"""`edgemim.runtime.student`: known values, and scipy's where it is installed."""

from __future__ import annotations

import math

import pytest

from edgemim.runtime.student import student_quantile, student_tail

FREEDOMS = (1, 1.7, 2, 3, 4.33, 7, 15, 59, 1000, 100_000)


def test_worked_examples() -> None:
    # One degree of freedom is Cauchy's distribution: the quantile is tan(pi (1/2 - tail)).
    assert student_quantile(0.025, 1) == pytest.approx(math.tan(math.pi * 0.475), rel=1e-9)
    # Of two it has a closed form too: (1 - 2 tail) / sqrt(2 tail (1 - tail)).
    assert student_quantile(0.025, 2) == pytest.approx(0.95 / math.sqrt(2 * 0.025 * 0.975), rel=1e-9)
    # The table that every book has.
    assert student_quantile(0.025, 10) == pytest.approx(2.2281, abs=5e-5)
    assert student_quantile(0.0005, 3) == pytest.approx(12.924, abs=5e-4)


def test_many_degrees_of_freedom_are_the_normal_distribution() -> None:
    assert student_quantile(0.0005, 1e6) == pytest.approx(3.2905, abs=5e-4)


@pytest.mark.parametrize("freedom", FREEDOMS)
@pytest.mark.parametrize("tail", [0.4, 0.05, 0.0005, 1e-7])
def test_the_tail_beyond_the_quantile_is_the_one_that_was_asked_for(freedom: float, tail: float) -> None:
    assert student_tail(student_quantile(tail, freedom), freedom) == pytest.approx(tail, rel=1e-7)


@pytest.mark.parametrize("freedom", FREEDOMS)
@pytest.mark.parametrize("tail", [0.4, 0.05, 0.0005, 1e-7])
def test_it_is_scipys(freedom: float, tail: float) -> None:
    stats = pytest.importorskip("scipy.stats", reason="compares with scipy")
    assert student_quantile(tail, freedom) == pytest.approx(stats.t.isf(tail, freedom), rel=1e-8)
