"""`edgemim.runtime.compare.bootstrap`: the estimate, the interval, and how often it is wrong.

`recorded_turns.npz` holds the times of one model in two sessions that took turns, on a shared machine of two cores
with other work on it: [openings, rounds, 2], in microseconds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgemim.runtime.compare.bootstrap import block_length, ratio_interval, stretch

RECORDED = Path(__file__).with_name("recorded_turns.npz")
Floats = np.ndarray


def recorded() -> Floats:
    with np.load(RECORDED, allow_pickle=False) as arrays:
        return np.asarray(arrays["microseconds"], dtype=np.float64)


def same_twice(rng: np.random.Generator, openings: int, rounds: int) -> tuple[Floats, Floats, Floats]:
    """Pieces of recorded openings, drawn at random, and which session is ours too: the true ratio is 1."""
    turns = recorded()
    ours, theirs = [], []
    for _ in range(openings):
        opening, start = rng.integers(len(turns)), rng.integers(turns.shape[1] - rounds + 1)
        piece = turns[opening, start : start + rounds]
        side = rng.integers(2)
        ours.append(piece[:, side])
        theirs.append(piece[:, 1 - side])
    return np.concatenate(ours), np.concatenate(theirs), np.repeat(np.arange(openings), rounds)


@pytest.mark.parametrize(
    ("factor", "difference"), [(1.05, "slower"), (1 / 1.05, "faster"), (1.004, "none"), (1.0, "none")]
)
def test_a_constant_ratio_is_found_exactly_whatever_the_level_does(factor: float, difference: str) -> None:
    level = 5 + np.cumsum(np.random.default_rng(0).normal(0, 0.05, 64))  # the machine drifts
    found = ratio_interval(factor * level, level, np.repeat(range(16), 4))
    assert [found.low, found.ratio, found.high] == pytest.approx([factor] * 3)
    assert found.difference == difference
    assert (found.n, found.block, found.blocks, found.level) == (64, 4, 16, 0.999)


def test_the_estimate_is_the_mean_of_the_middle_half() -> None:
    # Of the logs 0, 1, ..., 7 (hundredths) those from 2 to 5 are the middle half: their mean is 3.5.
    theirs = np.ones(8)
    found = ratio_interval(np.exp(np.arange(8) / 100), theirs, np.repeat(range(4), 2))
    assert np.log(found.ratio) == pytest.approx(0.035)
    # A spike, however large, is but one of the largest.
    ours = np.exp(np.array([0, 1, 2, 3, 4, 5, 6, 900]) / 100)
    assert np.log(ratio_interval(ours, theirs, np.repeat(range(4), 2)).ratio) == pytest.approx(0.035)


def test_the_estimate_is_scipys_trimmed_mean_also_where_values_are_binned() -> None:
    stats = pytest.importorskip("scipy.stats", reason="compares with scipy")
    logs = np.random.default_rng(0).standard_t(3, 4000) / 50
    found = ratio_interval(np.exp(logs), np.ones(4000), np.repeat(range(20), 200), resamples=10)
    assert np.log(found.ratio) == pytest.approx(stats.trim_mean(logs, 0.25), abs=1e-5)


def test_swapping_the_sides_inverts_everything() -> None:
    ours, theirs, openings = same_twice(np.random.default_rng(0), 16, 16)
    one, other = ratio_interval(1.04 * ours, theirs, openings), ratio_interval(theirs, 1.04 * ours, openings)
    assert [1 / other.high, 1 / other.ratio, 1 / other.low] == pytest.approx([one.low, one.ratio, one.high], rel=1e-3)


def test_an_interval_that_reaches_over_the_margin_is_unclear() -> None:
    ours, theirs, openings = same_twice(np.random.default_rng(0), 16, 8)
    found = ratio_interval(ours, theirs, openings)
    assert found.low < 1 / 1.01 < 1.01 < found.high
    assert found.difference == "unclear"


def test_openings_that_differ_widen_the_interval_as_rounds_cannot() -> None:
    rng = np.random.default_rng(0)
    shifts, noise = np.repeat(rng.normal(0, 0.01, 16), 500), rng.normal(0, 0.01, 8000)
    openings = np.repeat(np.arange(16), 500)
    alike = ratio_interval(np.exp(noise), np.ones(8000), openings)
    differing = ratio_interval(np.exp(noise + shifts), np.ones(8000), openings)
    assert alike.high / alike.low < 1.003
    # 16 openings of 1 % each: a standard error of 0.25 %, and more than 3.3 of these on either side.
    assert 1.016 < differing.high / differing.low < 1.04


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_the_length_of_a_block_is_politis_and_whites(correlation: float) -> None:
    # Of an autoregressive process G / g(0) is 2 r / (1 - r^2), so that the length is known.
    n, found = 4000, []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=n)
        for i in range(1, n):
            values[i] += correlation * values[i - 1]
        found.append(block_length(values))
    expected = (2 * (2 * correlation / (1 - correlation**2)) ** 2 * 3 / 4) ** (1 / 3) * n ** (1 / 3)
    assert np.median(found) == pytest.approx(max(expected, 1.0), rel=0.3, abs=2.5)


def test_correlation_beyond_one_opening_joins_openings_into_a_block() -> None:
    rng = np.random.default_rng(0)
    slow = np.repeat(rng.normal(0, 0.02, 8), 40)  # every fourth opening brings another level
    found = ratio_interval(np.exp(slow + rng.normal(0, 0.005, 320)), np.ones(320), np.repeat(np.arange(32), 10))
    assert found.block >= 20
    assert found.blocks <= 16


# 5.33: 16 openings in threes. Two is the least that there can be.
@pytest.mark.parametrize("blocks", [2, 3, 4, 16 / 3, 8, 16, 60])
def test_percentiles_are_stretched_by_students_quantile(blocks: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="compares with scipy")
    expected = np.sqrt(blocks / (blocks - 1)) * stats.t.ppf(0.9995, blocks - 1) / stats.norm.ppf(0.9995)
    assert stretch(blocks, 0.0005) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("openings", [2, 3, 4])
def test_the_fewest_openings_give_an_interval_that_misses_no_more_often_than_it_says(openings: int) -> None:
    rng, missed, trials = np.random.default_rng(0), 0, 150
    positions = np.repeat(np.arange(openings), 4)
    for _ in range(trials):
        logs = np.repeat(rng.normal(0, 0.01, openings), 4) + rng.normal(0, 0.001, 4 * openings)
        found = ratio_interval(np.exp(logs), np.ones(len(logs)), positions, level=0.9, resamples=200)
        missed += not found.low <= 1 <= found.high
    assert missed / trials < 0.1 + 3 * (0.1 * 0.9 / trials) ** 0.5


def rates(level: float, *, trials: int, resamples: int, openings: int, rounds: int) -> tuple[float, set[str]]:
    """How often the interval of the same thing twice misses 1, and everything that was said."""
    rng, missed, said = np.random.default_rng(1), 0, set()
    for _ in range(trials):
        found = ratio_interval(*same_twice(rng, openings, rounds), level=level, resamples=resamples)
        missed += not found.low <= 1 <= found.high
        said.add(found.difference)
    return missed / trials, said


def test_on_recorded_noise_the_interval_misses_the_truth_as_often_as_it_says() -> None:
    missed, _ = rates(0.9, trials=150, resamples=400, openings=16, rounds=16)
    assert 0.04 < missed < 0.17  # 0.1, and three standard errors of 150 trials


LOOKS = (16, 32, 48)  # openings: as many again, at most twice


def said_at_the_end(rng: np.random.Generator, truth: float, *, rounds: int, level: float, resamples: int) -> str:
    """What is said when as much is measured again while the answer is `unclear`; the true ratio is `truth`."""
    ours, theirs, openings = same_twice(rng, LOOKS[-1], rounds)
    difference = "unclear"
    for look in LOOKS:
        some = slice(look * rounds)
        found = ratio_interval(truth * ours[some], theirs[some], openings[some], level=level, resamples=resamples)
        difference = found.difference
        if difference != "unclear":
            break
    return difference


def share_said(wrong: str, truth: float, *, trials: int, **options: float) -> float:
    """How often the looks end with a wrong answer."""
    rng = np.random.default_rng(1)
    return sum(said_at_the_end(rng, truth, **options) == wrong for _ in range(trials)) / trials  # type: ignore[arg-type]


def test_looking_up_to_three_times_does_not_make_wrong_answers_more_frequent_than_three_tails() -> None:
    # A ratio of just the margin is where a wrong `slower` is the likeliest.
    trials, most = 60, 3 * (1 - 0.8) / 2
    found = share_said("slower", 1.01, trials=trials, rounds=6, level=0.8, resamples=200)
    assert 0.01 < found < most + 3 * (most * (1 - most) / trials) ** 0.5


@pytest.mark.slow
def test_on_recorded_noise_three_looks_are_wrong_as_rarely_as_the_document_says() -> None:
    trials, most = 1000, 3 * (1 - 0.95) / 2
    for truth, wrong in ((1.01, "slower"), (1 / 1.01, "faster")):
        found = share_said(wrong, truth, trials=trials, rounds=16, level=0.95, resamples=1000)
        assert 0.01 < found < most + 3 * (most * (1 - most) / trials) ** 0.5
        # 3 looks x 0.05 % of 1000, and three standard errors.
        assert share_said(wrong, truth, trials=trials, rounds=16, level=0.999, resamples=4000) <= 0.005
    # Of the same thing twice there is the whole margin besides.
    assert share_said("slower", 1.0, trials=trials, rounds=16, level=0.999, resamples=4000) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("openings", "rounds"), [(16, 16), (24, 60)])
def test_on_recorded_noise_false_alarms_are_rare(openings: int, rounds: int) -> None:
    missed, said = rates(0.999, trials=1000, resamples=8000, openings=openings, rounds=rounds)
    assert missed <= 0.006
    assert said <= {"none", "unclear"}
    missed, _ = rates(0.95, trials=1000, resamples=2000, openings=openings, rounds=rounds)
    assert 0.02 < missed < 0.075
