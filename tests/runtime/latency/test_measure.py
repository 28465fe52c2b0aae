"""`edgemim.runtime.latency`: order of the runs, numbers of runs, and the statistics, on a clock of our own."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest

from edgemim.errors import DeviceError
from edgemim.runtime.latency.measure import measure_latency
from edgemim.runtime.latency.protocol import LEAST_RUNS, LatencyProtocol
from edgemim.runtime.latency.summary import Samples, latency_ratio, percentile, summarise, summarise_briefly


class Clock:
    """Nanoseconds that pass only while a call runs."""

    def __init__(self) -> None:
        self.now = 0
        self.ran: list[str] = []

    def __call__(self) -> int:
        return self.now

    def call(self, name: str, ms: float):
        def run() -> None:
            self.ran.append(name)
            self.now += int(ms * 1e6)

        return run


def protocol(**changes: float) -> LatencyProtocol:
    plain = {"runs": 4, "seconds": 0, "rounds": 2, "warmup_runs": 1, "warmup_s": 0, "settle_runs": 1}
    return LatencyProtocol(**{**plain, "settle_s": 0, "warmup_most_s": 0, **changes})  # type: ignore[arg-type]


def samples(*rounds: list[float]) -> Samples:
    values = [ms for round_ in rounds for ms in round_]
    indices = [i for i, round_ in enumerate(rounds) for _ in round_]
    return Samples(
        nanoseconds=(np.array(values) * 1e6).astype(np.int64),
        rounds=np.array(indices, dtype=np.int32),
        warmup_runs=1,
    )


def test_sessions_take_turns_and_each_turn_starts_with_untimed_runs() -> None:
    clock = Clock()
    measured = measure_latency({"a": clock.call("a", 1), "b": clock.call("b", 2)}, protocol(), clock=clock)
    # warm-up a b, then per round one settling and two timed runs of each.
    assert "".join(clock.ran) == "ab" + "aaabbb" * 2
    assert measured["a"].nanoseconds.tolist() == [1_000_000] * 4
    assert measured["b"].nanoseconds.tolist() == [2_000_000] * 4
    assert measured["b"].rounds.tolist() == [0, 0, 1, 1]


def test_runs_and_seconds_are_both_least_amounts() -> None:
    clock = Clock()
    calls = {"fast": clock.call("f", 1), "slow": clock.call("s", 300)}
    measured = measure_latency(calls, protocol(runs=10, seconds=0.5), clock=clock)
    assert len(measured["fast"].nanoseconds) == 500
    assert len(measured["slow"].nanoseconds) == 10


def test_warm_up_lasts_for_both_its_runs_and_its_seconds() -> None:
    clock = Clock()
    calls = {"fast": clock.call("f", 1), "slow": clock.call("s", 100)}
    measured = measure_latency(calls, protocol(warmup_runs=5, warmup_s=0.02), clock=clock)
    assert measured["fast"].warmup_runs == 20
    assert measured["slow"].warmup_runs == 5


def test_every_round_has_a_run_even_when_one_run_takes_longer_than_the_rounds_share() -> None:
    clock = Clock()
    measured = measure_latency({"slow": clock.call("s", 2000)}, protocol(runs=1, rounds=4, seconds=1), clock=clock)
    assert measured["slow"].rounds.tolist() == [0, 1, 2, 3]


def test_progress_counts_turns() -> None:
    clock, seen = Clock(), []
    calls = {"a": clock.call("a", 1), "b": clock.call("b", 1)}
    measure_latency(calls, protocol(), clock=clock, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_garbage_collector_is_off_while_measuring_and_back_on_after_a_failure() -> None:
    states = []

    def fail_when_timed() -> None:
        states.append(gc.isenabled())
        if not gc.isenabled():
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        measure_latency({"a": fail_when_timed}, protocol())
    assert states == [True, False]
    assert gc.isenabled()


def test_worked_example_of_a_summary() -> None:
    # 1 2 3 4 | 5 6 7 10: mean 38 / 8; 50 % of 8 is the 4th smallest; medians of rounds 2 and 6,
    # the quartiles of which are 3 and 5.
    latency = summarise(samples([1, 2, 3, 4], [5, 6, 7, 10]))
    assert (latency.n, latency.mean_ms, latency.p50_ms, latency.max_ms) == (8, 4.75, 4.0, 10.0)
    assert latency.cv == pytest.approx(np.std([1, 2, 3, 4, 5, 6, 7, 10]) / 4.75)
    assert latency.spread == pytest.approx((5 - 3) / 4)
    assert latency.stable is False


@pytest.mark.parametrize(
    ("n", "p90", "p99"), [(63, False, False), (64, True, False), (661, True, False), (662, True, True)]
)
def test_a_tail_is_stated_only_with_enough_runs(n: int, p90: bool, p99: bool) -> None:
    latency = summarise(samples([1.0] * n))
    assert (latency.p90_ms is not None, latency.p99_ms is not None) == (p90, p99)


def test_one_round_says_nothing_about_stability() -> None:
    assert summarise(samples([1, 2, 3])).stable is None


def test_equal_rounds_are_stable_whatever_their_tail() -> None:
    assert summarise(samples([1, 1, 1, 50], [1, 1, 1, 80])).stable is True


@pytest.mark.parametrize("p", [1, 25, 50, 90, 99, 100])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 99, 100, 101, 662, 1000])
def test_percentile_is_numpys_inverted_cdf(p: float, n: int) -> None:
    values = np.random.default_rng(n).exponential(size=n)
    assert percentile(values, p) == np.percentile(values, p, method="inverted_cdf")


@pytest.mark.parametrize(("p", "n", "rank"), [(7, 100, 7), (99.9, 1000, 999), (29, 100, 29), (50, 5, 3)])
def test_percentile_is_not_off_by_one_where_binary_fractions_are(p: float, n: int, rank: int) -> None:
    assert percentile(np.arange(1, n + 1), p) == rank


@pytest.mark.parametrize("p", [50, 90, 99])
def test_percentile_is_the_smallest_sample_that_covers_its_share(p: int) -> None:
    values = np.random.default_rng(3).integers(0, 50, 137)
    covered = [v for v in np.unique(values) if (values <= v).sum() * 100 >= p * 137]
    assert percentile(values, p) == covered[0]


@pytest.mark.parametrize(("p", "least"), LEAST_RUNS.items())
def test_the_least_number_of_runs_is_scipys_binomial_bound(p: int, least: int) -> None:
    binom = pytest.importorskip("scipy.stats", reason="needs scipy").binom
    assert binom.cdf(1, least, 1 - p / 100) <= 0.01 < binom.cdf(1, least - 1, 1 - p / 100)


def test_worked_example_of_a_ratio() -> None:
    # Medians of the rounds: 2, 4, 8 over 1, 4, 4: the logs of 2, 1 and 2 have the mean (2 log 2) / 3. Of three values
    # none is cut off; their variance is (log 2)^2 / 3, the standard error log 2 / 3, and Student's quantile of two
    # degrees of freedom at 99 % is 9.925.
    ratio = latency_ratio(samples([2], [4], [8]), samples([1], [4], [4]))
    assert ratio.ratio == pytest.approx(2 ** (2 / 3))
    assert ratio.low == pytest.approx(2 ** ((2 - 9.924843) / 3))
    assert ratio.high == pytest.approx(2 ** ((2 + 9.924843) / 3))


def test_a_single_round_gives_a_ratio_without_an_interval() -> None:
    ratio = latency_ratio(samples([3, 3]), samples([2, 2]))
    assert (ratio.ratio, ratio.low, ratio.high) == (pytest.approx(1.5), None, None)


@pytest.mark.parametrize("rounds", [8, 24, 60])
def test_a_disturbed_round_makes_nothing_unstable_however_long_it_was_measured(rounds: int) -> None:
    rng = np.random.default_rng(rounds)
    steady = [[level] * 5 for level in 10 + rng.normal(0, 0.1, rounds)]
    assert summarise(samples(*steady)).stable is True
    steady[3] = [14.0] * 5
    assert summarise(samples(*steady)).stable is True


@pytest.mark.parametrize("rounds", [8, 24, 60])
def test_a_latency_that_drifts_is_not_stable(rounds: int) -> None:
    found = summarise(samples(*[[level] * 5 for level in np.linspace(10, 11, rounds)]))
    assert found.spread == pytest.approx(0.05, rel=0.1)
    assert found.stable is False


@pytest.mark.parametrize(("noise", "stable"), [(0.005, True), (0.02, False)])
def test_where_the_device_tells_its_time_that_decides_what_is_stable(noise: float, stable: bool) -> None:
    waited = samples([10, 10], [20, 20])  # the host was disturbed
    device = np.array([1 - noise, 1 + noise, 1 - noise, 1 + noise])
    assert summarise(replace(waited, device_ms=device)).stable is stable


def test_time_on_the_device_is_asked_for_after_every_timed_run_and_no_other() -> None:
    clock, told = Clock(), iter(range(1, 100))
    measured = measure_latency(
        {"a": clock.call("a", 5), "b": clock.call("b", 5)},
        protocol(),
        device_times={"a": lambda: next(told) / 10},
        clock=clock,
    )
    assert measured["a"].device_ms is not None
    assert measured["a"].device_ms.tolist() == [0.1, 0.2, 0.3, 0.4]
    assert measured["b"].device_ms is None
    found = summarise(measured["a"])
    assert (found.p50_ms, found.device_p50_ms, found.device_p90_ms) == (5.0, 0.2, None)
    assert found.device_cv == pytest.approx(np.std([1, 2, 3, 4]) / 2.5)
    assert summarise(measured["b"]).device_p50_ms is None


def test_a_session_that_cannot_always_tell_its_time_on_the_device_has_none() -> None:
    clock, told = Clock(), iter([1.0, None, 1.0, 1.0])
    measured = measure_latency(
        {"a": clock.call("a", 1)}, protocol(), device_times={"a": lambda: next(told)}, clock=clock
    )
    assert measured["a"].device_ms is None


def test_a_tail_of_the_time_on_the_device_needs_as_many_runs() -> None:
    values = np.arange(1, LEAST_RUNS[90] + 1, dtype=np.float64)
    found = summarise(
        Samples(
            nanoseconds=(values * 1e6).astype(np.int64),
            rounds=np.zeros(len(values), np.int32),
            warmup_runs=1,
            device_ms=values / 2,
        )
    )
    assert found.p90_ms is not None
    assert (found.device_p90_ms, found.device_p99_ms) == (found.p90_ms / 2, None)


def test_each_turn_is_told_with_its_begin_and_end() -> None:
    clock, turns = Clock(), []
    measure_latency(
        {"a": clock.call("a", 1), "b": clock.call("b", 2)},
        protocol(),
        clock=clock,
        turn=lambda *told: turns.append(told),
    )
    # Warm-up takes 3 ms; then a turn of a settles for 1 and is timed for 2, one of b for 2 and 4.
    ms = [(name, start / 1e6, end / 1e6) for name, start, end in turns]
    assert ms == [("a", 4, 6), ("b", 8, 12), ("a", 13, 15), ("b", 17, 21)]


def test_the_start_of_every_timed_run_is_kept() -> None:
    clock = Clock()
    measured = measure_latency({"a": clock.call("a", 1), "b": clock.call("b", 2)}, protocol(), clock=clock)
    starts = {name: found.start_ns for name, found in measured.items()}
    # As in the turns above: warm-up 3 ms, one run of a to settle, two of a timed, ...
    assert starts["a"] is not None
    assert starts["b"] is not None
    assert (starts["a"] / 1e6).tolist() == [4, 5, 13, 14]
    assert (starts["b"] / 1e6).tolist() == [8, 10, 17, 19]


def test_what_the_warm_up_took_is_told() -> None:
    clock = Clock()
    calls = {"a": clock.call("a", 1)}
    found = summarise(measure_latency(calls, protocol(warmup_runs=40, warmup_most_s=1), clock=clock)["a"])
    assert (found.warmup_runs, found.warmup_s, found.settled) == (40, 0.04, True)


@pytest.mark.parametrize("between", [False, True])
def test_a_clock_that_goes_backwards_is_an_error_of_the_device(between: bool) -> None:
    now, looks = 0, 0

    def clock() -> int:
        nonlocal now, looks
        looks += 1
        # In a timed run the clock is looked at before (odd) and after (even).
        now += -2_500_000 if looks == (21 if between else 20) else 1_000_000
        return now

    with pytest.raises(
        DeviceError, match=r"clock went backwards by 2\.5 ms while the model was timed.*monotonic"
    ) as error:
        measure_latency({"the model": lambda: None}, protocol(runs=100, rounds=1, settle_runs=0), clock=clock)
    assert "\n" not in str(error.value)


def test_the_estimate_of_mlperf_is_in_the_summary() -> None:
    values = list(np.random.default_rng(0).permutation(256) + 1.0)
    found = summarise(samples(values))
    # Of 256 runs the 13 slowest are passed over; the plain percentile passes over 25.
    assert (found.p90_ms, found.p90_estimate_ms) == (231, 243)
    assert summarise(samples([1.0] * 63)).p90_estimate_ms is None


def test_a_short_series_states_a_tail_only_with_enough_runs() -> None:
    assert summarise_briefly(np.arange(1, 5) * 1_000_000).to_dict() == {"n": 4, "p50_ms": 2.0, "p90_ms": None}
    assert summarise_briefly(np.arange(1, 101) * 1_000_000).to_dict() == {"n": 100, "p50_ms": 50.0, "p90_ms": 90.0}
