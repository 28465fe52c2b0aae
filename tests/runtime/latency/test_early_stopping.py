"""`edgemim.runtime.latency.early_stopping`: LoadGen's numbers, and the binomial distribution they come from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgemim.runtime.latency.early_stopping import early_stopping_estimate, runs_to_discard
from edgemim.runtime.latency.protocol import LEAST_RUNS


def exactly(n: int, above: int, of: int) -> int | None:
    """The same by its definition, in whole numbers; a run lies above the percentile with the chance above / of."""
    term, total, t = (of - above) ** n, 0, -1
    while True:
        if t >= 0:
            term = term * (n - t) * above // ((t + 1) * (of - above))
        total += term
        if 100 * total > of**n:
            return t - 1 if t >= 1 else None
        t += 1


@pytest.mark.parametrize(
    ("p", "n", "discarded"),
    [
        *((90, n, d) for n, d in [(64, 0), (128, 4), (256, 13), (512, 34), (1024, 79), (2000, 167), (5000, 449)]),
        *((99, n, d) for n, d in [(662, 0), (1024, 2), (2000, 8), (5000, 32)]),
    ],
)
def test_the_slowest_runs_are_passed_over_as_loadgen_does(p: int, n: int, discarded: int) -> None:
    assert runs_to_discard(n, p) == discarded
    values = np.random.default_rng(n).permutation(n)
    assert early_stopping_estimate(values, p) == n - 1 - discarded


@pytest.mark.parametrize(("p", "least"), LEAST_RUNS.items())
def test_too_few_runs_give_no_estimate(p: int, least: int) -> None:
    assert [early_stopping_estimate(np.arange(n), p) for n in (0, 1, 10, least - 1)] == [None] * 4
    assert early_stopping_estimate(np.arange(least), p) == least - 1


@pytest.mark.parametrize(("p", "above", "of"), [(90, 1, 10), (99, 1, 100), (99.9, 1, 1000), (50, 1, 2)])
def test_the_number_is_that_of_whole_numbers(p: float, above: int, of: int) -> None:
    for n in (*range(40), 63, 64, 65, 127, 661, 662, 663, 1500):
        assert runs_to_discard(n, p) == exactly(n, above, of), n


@pytest.mark.parametrize("n", [24_576, 100_003, 3_000_000])
@pytest.mark.parametrize("p", [90, 99, 99.9])
def test_the_number_is_that_of_scipys_binomial(p: float, n: int) -> None:
    binom = pytest.importorskip("scipy.stats", reason="needs scipy").binom
    discarded = runs_to_discard(n, p)
    assert discarded is not None
    t = discarded + 1
    assert binom.cdf(t, n, 1 - p / 100) <= 0.01 < binom.cdf(t + 1, n, 1 - p / 100)


def test_the_estimate_is_rarely_below_the_true_percentile_and_close_to_it_with_many_runs() -> None:
    rng, true = np.random.default_rng(0), -math.log(0.1)
    few = [early_stopping_estimate(rng.exponential(size=256)) or 0.0 for _ in range(1000)]
    assert 0.001 <= np.mean(np.array(few) < true) <= 0.02
    many = early_stopping_estimate(rng.exponential(size=1_000_000)) or 0.0
    assert true < many < 1.01 * true
