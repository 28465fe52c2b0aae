"""Two models on the same images: the exact test and the interval of the drop, beside scipy and plain resampling."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgemim.runtime.accuracy.drop import drop_interval
from edgemim.runtime.accuracy.mcnemar import mcnemar_p


def test_worked_example_of_mcnemar() -> None:
    # Of 5 images 1 went the other way: P(0 or 1 of 5) = (1 + 5) / 32, twice that for either direction.
    assert mcnemar_p(4, 1) == pytest.approx(12 / 32)
    assert mcnemar_p(0, 3) == pytest.approx(2 / 8)


@pytest.mark.parametrize("same", [0, 1, 40])
def test_an_even_split_says_nothing(same: int) -> None:
    assert mcnemar_p(same, same) == 1.0


@pytest.mark.parametrize("pair", [(1, 0), (0, 6), (7, 12), (12, 7), (50, 51), (900, 700), (30_000, 29_000)])
def test_mcnemar_is_scipys_binomial_test(pair: tuple[int, int]) -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs scipy")
    expected = stats.binomtest(pair[0], sum(pair), 0.5).pvalue
    assert mcnemar_p(*pair) == pytest.approx(expected, rel=1e-8)


def test_a_p_value_too_small_for_a_float_is_zero() -> None:
    assert mcnemar_p(20_000, 0) == 0.0


def test_the_interval_is_that_of_drawing_the_pairs_anew() -> None:
    # 1,000 images of which 60 went wrong and 25 right, and one of each more, one image at a time.
    outcomes = np.repeat([1, -1, 0], [61, 26, 915])
    rng = np.random.default_rng(0)
    drops = [rng.choice(outcomes, 1000).mean() for _ in range(4000)]
    found = drop_interval(60, 25, 1000)
    # The ends of an interval from 4,000 draws are uncertain by about 0.0006.
    assert (found.low, found.high) == pytest.approx(np.percentile(drops, [2.5, 97.5]), abs=2e-3)
    assert found.low < 0.035 < found.high


def test_with_many_flips_it_is_the_normal_interval() -> None:
    n, to_wrong, to_right = 50_000, 1500, 1000
    drop = (to_wrong - to_right) / n
    error = 1.96 * math.sqrt((to_wrong + to_right) / n - drop**2) / math.sqrt(n)
    found = drop_interval(to_wrong, to_right, n)
    assert (found.low, found.high) == pytest.approx((drop - error, drop + error), rel=0.02)
    assert found.resolution == pytest.approx(error, rel=0.02)


def test_no_flip_among_few_images_is_not_certainty() -> None:
    # 3 / n is the most that n images without a flip leave possible ("rule of three").
    assert drop_interval(0, 0, 20).high == pytest.approx(3 / 20)
    assert not drop_interval(0, 0, 500).enough
    assert drop_interval(0, 0, 1000).enough


@pytest.mark.parametrize(("n", "enough"), [(500, False), (2000, False), (20_000, True)])
def test_it_takes_many_images_to_tell_half_a_point_where_3_percent_flip(n: int, enough: bool) -> None:
    found = drop_interval(round(0.02 * n), round(0.01 * n), n)
    assert found.enough == enough
    assert found.resolution == pytest.approx((found.high - found.low) / 2)


def test_the_same_counts_give_the_same_interval() -> None:
    assert drop_interval(7, 3, 321) == drop_interval(7, 3, 321)


@pytest.mark.parametrize(("n", "worse", "better"), [(100, 0.02, 0.02), (300, 0.05, 0.01), (2000, 0.002, 0.001)])
def test_it_holds_the_true_drop_in_95_of_100_experiments(n: int, worse: float, better: float) -> None:
    rng = np.random.default_rng(1)
    counts, times = np.unique(
        rng.multinomial(n, [worse, better, 1 - worse - better], size=600), axis=0, return_counts=True
    )
    found = [drop_interval(int(to_wrong), int(to_right), n) for to_wrong, to_right, _ in counts]
    held = [interval.low <= worse - better <= interval.high for interval in found]
    # 600 experiments are uncertain by 2 points.
    assert np.average(held, weights=times) > 0.93
