"""`edgemim.runtime.compare.interleave`: who runs when, by a clock that only moves while something runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pytest

from edgemim.errors import DeviceError
from edgemim.runtime.compare.interleave import Recorded, Turns, interleave, turns_for
from edgemim.runtime.latency.protocol import LatencyProtocol, protocol_for

PROTOCOL = LatencyProtocol(warmup_runs=2, warmup_s=0, warmup_most_s=0)
MS = 1_000_000


class FakeMachine:
    """A clock, and calls that move it; remembers what was opened, run and closed, in order."""

    def __init__(self) -> None:
        self.now, self.log = 0, list[tuple[str, str]]()

    def clock(self) -> int:
        return self.now

    def opens(self, name: str, takes_ns: Callable[[int], int]) -> Callable[[], object]:
        @contextmanager
        def open_() -> Iterator[Callable[[], object]]:
            self.log.append(("open", name))

            def call() -> None:
                self.log.append(("run", name))
                self.now += takes_ns(self.now)

            yield call
            self.log.append(("close", name))

        return open_

    def run(self, turns: Turns, seed: int = 0, **takes: int) -> dict[str, Recorded]:
        entries = {name: self.opens(name, lambda _, ns=ns: ns) for name, ns in takes.items()}
        rng = np.random.default_rng(seed)
        return interleave(entries, turns, PROTOCOL, rng=rng, clock=self.clock)  # type: ignore[arg-type]


def turns(**options: float) -> Turns:
    plain = {"runs": 32, "seconds": 0, "openings": 4, "settle_s": 0, "turn_s": 0, "reopened_runs": 1, "reopened_s": 0}
    return Turns(**{**plain, **options})  # type: ignore[arg-type]


def test_all_get_the_same_rounds_and_at_least_the_runs() -> None:
    found = FakeMachine().run(turns(), a=3 * MS, b=5 * MS)
    for name, ns in (("a", 3 * MS), ("b", 5 * MS)):
        assert set(found[name].nanoseconds) == {ns}
        assert len(found[name].nanoseconds) >= 32
    np.testing.assert_array_equal(found["a"].opening_of_round(), found["b"].opening_of_round())
    assert found["a"].opening_of_round().tolist() == np.repeat(range(4), 8).tolist()
    np.testing.assert_array_equal(found["a"].round_medians(), np.full(32, 3 * MS))


def test_seconds_count_with_the_untimed_runs_of_a_turn() -> None:
    found = FakeMachine().run(turns(runs=1, seconds=0.4), a=10 * MS, b=20 * MS)
    # A turn of `a`, the faster, takes 20 ms of which 10 are timed.
    assert len(found["a"].nanoseconds) == 20
    assert found["a"].turns_ns == 20 * 20 * MS
    assert found["a"].opening_of_round().tolist() == np.repeat(range(4), [6, 4, 6, 4]).tolist()  # even numbers


def test_a_turn_of_short_runs_has_several_and_each_begins_untimed() -> None:
    machine = FakeMachine()
    found = machine.run(turns(settle_s=0.01, turn_s=0.02), a=4 * MS, b=30 * MS)
    assert np.bincount(found["a"].rounds).tolist() == [5] * (found["a"].rounds[-1] + 1)  # 20 ms
    assert np.bincount(found["b"].rounds).tolist() == [1] * (found["b"].rounds[-1] + 1)
    runs = "".join(name for what, name in machine.log if what == "run")
    assert "aaaaaaaa" in runs  # three that are not timed, five that are
    assert "baaaaaaaab" in runs


def test_every_order_comes_as_often_as_its_mirror() -> None:
    machine = FakeMachine()
    found = machine.run(turns(runs=600), a=MS, b=MS, c=MS)
    starts = {name: np.array(one.start_ns) for name, one in found.items()}
    order = np.argsort(np.stack([starts[name] for name in "abc"]), axis=0)  # [position, round]
    assert order.shape[1] == 600
    for position in range(3):
        assert (order[position, ::2] == order[2 - position, 1::2]).all()
    assert len({tuple(column) for column in order.T}) == 6


def test_everything_is_closed_and_opened_anew_between_the_openings() -> None:
    machine = FakeMachine()
    machine.run(turns(), a=MS, b=MS)
    whats = [what for what, _ in machine.log if what != "run"]
    assert whats == ["open", "open", "close", "close"] * 4


@pytest.mark.parametrize(("answers", "times"), [([True], 1), ([False, True], 2), ([False, False], 3)])
def test_as_much_again_is_measured_until_it_is_decided_or_the_limit_is_reached(answers: list[bool], times: int) -> None:
    machine, told, shares = FakeMachine(), iter(answers), list[float]()
    seen = list[int]()

    def decided(found: Mapping[str, Recorded]) -> bool:
        seen.append(len(found["a"].nanoseconds))
        return next(told)

    entries = {name: machine.opens(name, lambda _, ns=ns: ns) for name, ns in (("a", 3 * MS), ("b", 5 * MS))}
    found = interleave(
        entries,  # type: ignore[arg-type]
        turns(extensions=2),
        PROTOCOL,
        rng=np.random.default_rng(0),
        decided=decided,
        clock=machine.clock,
        progress=shares.append,
    )
    assert seen == [32, 64][: len(answers)]
    assert len(found["a"].nanoseconds) == 32 * times
    assert found["a"].opening_of_round().tolist() == np.repeat(range(4 * times), 8).tolist()
    assert shares[-1] == 1
    assert [shares[32 * n] for n in range(1, times)] == pytest.approx([(n + 1 / 32) / (n + 1) for n in range(1, times)])


def test_nobody_who_does_not_ask_gets_more() -> None:
    found = FakeMachine().run(turns(extensions=2), a=MS, b=MS)
    assert len(found["a"].nanoseconds) == 32


def test_drift_cancels_within_a_round() -> None:
    machine = FakeMachine()
    # The machine becomes half as fast in the course of the measurement.
    entries = {
        name: machine.opens(name, lambda now, ns=ns: int(ns * (1 + now / 2e9))) for name, ns in (("a", MS), ("b", MS))
    }
    rng = np.random.default_rng(0)
    found = interleave(entries, turns(runs=200), PROTOCOL, rng=rng, clock=machine.clock)  # type: ignore[arg-type]
    ratios = found["a"].round_medians() / found["b"].round_medians()
    assert found["a"].nanoseconds[-1] > 1.3 * found["a"].nanoseconds[0]
    assert np.log(ratios).mean() == pytest.approx(0, abs=1e-4)


def test_a_clock_that_goes_backwards_is_told() -> None:
    machine = FakeMachine()
    # Two runs of warm-up, then one that is not timed and one that is, in turn: the last is timed.
    takes = iter([MS] * 5 + [-5 * MS])
    entries = {"a": machine.opens("a", lambda _: next(takes)), "b": machine.opens("b", lambda _: MS)}
    rng = np.random.default_rng(0)
    with pytest.raises(DeviceError, match=r"the clock went backwards by 5 ms while a was timed"):
        interleave(entries, turns(), PROTOCOL, rng=rng, clock=machine.clock)  # type: ignore[arg-type]
    assert next(takes, None) is None


def test_modes_give_their_runs_and_seconds_and_openings_enough() -> None:
    quick, standard = turns_for(protocol_for("quick")), turns_for(protocol_for("standard"))
    assert (quick.runs, quick.seconds, standard.runs, standard.seconds) == (256, 5.0, 1024, 60.0)
    assert standard.openings > quick.openings >= 16
    assert (quick.extensions, standard.extensions) == (2, 2)
    assert turns_for(protocol_for("quick", seconds=3)).extensions == 0
    assert turns_for(protocol_for("mlperf")).extensions == 0
