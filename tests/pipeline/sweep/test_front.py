"""What entries are compared by, which are on the front, and which are measured once more."""

from __future__ import annotations

import random
from typing import Any

import pytest

from edgemim.pipeline.sweep.front import finalists, pareto_front


def entry(
    time: float | None, *, top1: float | None = None, cosine: float | None = None, parameters: int = 1, side: int = 32
) -> dict[str, Any]:
    known = top1 is not None or cosine is not None
    return {
        "model": "m",
        "input": [side, side],
        "latency": None if time is None else {"p50_ms": time},
        "side_by_side": None,
        "accuracy": {"top1": top1, "agreement": None, "cosine": cosine} if known else None,
        "evaluation": {"sha256": "a"},
        "parameters": parameters,
    }


def test_the_front_is_what_nothing_beats_in_time_and_top1() -> None:
    entries = [entry(4.0, top1=0.9), entry(2.0, top1=0.8), entry(3.0, top1=0.7), entry(5.0, top1=0.9)]
    assert pareto_front(entries) == [1, 0]


def test_two_that_are_equal_are_both_on_the_front() -> None:
    assert pareto_front([entry(1.0, top1=0.5), entry(1.0, top1=0.5)]) == [0, 1]


def test_what_was_not_measured_takes_no_part() -> None:
    assert pareto_front([entry(None, top1=0.9), entry(1.0, top1=0.1)]) == [1]
    assert pareto_front([]) == []


def test_random_weights_are_compared_by_parameters_and_pixels() -> None:
    small, large, slow = entry(1.0, parameters=10), entry(2.0, parameters=20), entry(3.0, parameters=20)
    assert pareto_front([small, large, slow]) == [0, 1]
    assert pareto_front([small, entry(1.5, parameters=10, side=64)]) == [0, 1]


def test_a_top1_and_random_weights_do_not_compare() -> None:
    assert pareto_front([entry(1.0, top1=0.9, parameters=30), entry(2.0, parameters=20)]) == [0, 1]


def test_top1_on_other_images_does_not_compare() -> None:
    other = entry(2.0, top1=0.5) | {"evaluation": {"sha256": "b"}}
    assert pareto_front([entry(1.0, top1=0.9), other]) == [0, 1]


def test_closeness_to_fp32_compares_only_the_precisions_of_one_model() -> None:
    fp32, int8, useless = entry(2.0, cosine=1.0), entry(1.0, cosine=0.99), entry(3.0, cosine=0.98)
    another = entry(4.0, cosine=0.9) | {"model": "n"}
    assert pareto_front([fp32, int8, useless, another]) == [1, 0, 3]


def test_the_time_side_by_side_counts_where_there_is_one() -> None:
    slower = entry(1.0, top1=0.5) | {"side_by_side": {"p50_ms": 9.0}}
    assert pareto_front([slower, entry(2.0, top1=0.5)]) == [1]


def test_a_part_of_the_entries_has_a_front_of_its_own() -> None:
    entries = [entry(1.0, top1=0.9), entry(2.0, top1=0.8), entry(3.0, top1=0.7)]
    assert pareto_front(entries, [1, 2]) == [1]
    assert pareto_front(entries, []) == []


@pytest.mark.parametrize(("time", "chosen"), [(1.09, [0, 1]), (1.12, [0])])
def test_what_is_a_tenth_from_the_front_is_a_finalist(time: float, chosen: list[int]) -> None:
    # 1.09 ms less a tenth is 0.981, faster than 1.0; 1.12 ms less a tenth is 1.008.
    assert finalists([entry(1.0, top1=0.5), entry(time, top1=0.5)], None) == chosen


@pytest.mark.parametrize(("time", "chosen"), [(7.3, True), (8.7, True), (7.1, False), (8.9, False)])
def test_what_is_a_tenth_from_the_limit_is_a_finalist(time: float, chosen: bool) -> None:
    entries = [entry(1.0, top1=0.9), entry(time, top1=0.5)]
    assert (1 in finalists(entries, 8.0)) is chosen
    assert 1 not in finalists(entries, None)


def test_what_is_no_finalist_never_becomes_one() -> None:
    rng = random.Random(0)
    for _ in range(50):
        entries = [entry(rng.uniform(1, 9), top1=rng.random()) for _ in range(12)]
        dropped: set[int] = set()
        for count in range(1, len(entries) + 1):
            chosen = set(finalists(entries[:count], 5.0))
            assert not chosen & dropped
            dropped |= set(range(count)) - chosen
