"""Intervals and claims: worked examples, and that too few seeds never show anything."""

from __future__ import annotations

import pytest
from _parts.intervals import claim, described, difference, interval


def test_a_worked_example() -> None:
    # 1, 2, 3: mean 2, standard deviation 1, t(0.975, 2 degrees) = 4.302653, half width 4.302653 / sqrt(3) = 2.484138.
    low, high = interval([1.0, 2.0, 3.0]) or (0.0, 0.0)
    assert (low, high) == pytest.approx((-0.484138, 4.484138), abs=1e-6)


def test_one_value_has_no_interval() -> None:
    assert described({0: 0.5})["interval"] is None


def test_a_difference_is_paired_by_seed() -> None:
    # Unpaired these overlap by far; seed by seed the first is better by 0.02, 0.01 and 0.03.
    first, second = {0: 0.42, 1: 0.61, 2: 0.83}, {0: 0.40, 1: 0.60, 2: 0.80}
    found = difference(first, second)
    assert found is not None
    assert found["difference"] == pytest.approx(0.02)
    # Standard deviation 0.01: half width 0.02484.
    assert found["interval"] == pytest.approx([-0.00484, 0.04484], abs=1e-5)


def test_only_seeds_that_both_have_count() -> None:
    found = difference({0: 0.5, 1: 0.6, 5: 0.9}, {1: 0.5, 0: 0.5, 7: 0.1})
    assert found is not None
    assert found["seeds"] == [0, 1]
    assert found["difference"] == pytest.approx(0.05)
    assert difference({0: 0.5}, {1: 0.5}) is None


@pytest.mark.parametrize(
    ("gains", "shown", "refuted"),
    [
        ((0.030, 0.031, 0.032), True, False),
        ((-0.030, -0.031, -0.032), False, True),
        ((0.03, -0.01, 0.02), False, False),
    ],
)
def test_a_claim_is_what_its_interval_says(gains: tuple[float, ...], shown: bool, refuted: bool) -> None:
    worse = {0: 0.4, 1: 0.5, 2: 0.6}
    better = {seed: worse[seed] + gain for seed, gain in enumerate(gains)}
    found = claim("a", "b", {"a": better, "b": worse})
    assert found["claim"] == "a > b"
    assert (found["shown"], found["refuted"]) == (shown, refuted)


@pytest.mark.parametrize("seeds", [0, 1, 2])
def test_too_few_seeds_show_nothing_however_large_the_difference(seeds: int) -> None:
    better = {seed: 0.9 + seed * 1e-6 for seed in range(seeds)}
    found = claim("a", "b", {"a": better, "b": dict.fromkeys(range(seeds), 0.1)})
    assert (found["shown"], found["refuted"]) == (False, False)
