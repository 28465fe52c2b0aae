"""How long a combination is thought to take."""

from __future__ import annotations

from typing import Any

import pytest

from edgemim.pipeline.sweep.budget import Experience, in_words


def test_without_experience_nobody_knows(small_combination: Any) -> None:
    assert Experience().estimate(1.0) is None
    assert Experience().left([small_combination()]) is None


@pytest.mark.parametrize(
    ("cost", "seconds"),
    [
        (100.0, 10.0),  # as one that is done
        (50.0, 10.0),  # less is not thought to be quicker: the fixed part may be most of it
        (200.0, 20.0),  # twice the nearest, 100
        (2000.0, 60.0),  # twice the nearest, 1000
    ],
)
def test_the_nearest_in_cost_tells_in_proportion(cost: float, seconds: float) -> None:
    known = Experience()
    known.add(100.0, 10.0)
    known.add(1000.0, 30.0)
    assert known.estimate(cost) == pytest.approx(seconds)


def test_what_is_left_is_the_sum(small_combination: Any) -> None:
    known = Experience()
    known.add(small_combination().cost, 10.0)
    assert known.left([small_combination(), small_combination(side=64)]) == pytest.approx(10.0 + 40.0)


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, ""), (40.0, "about 40 s left"), (600.0, "about 10 min left"), (0.2, "about 0 s left")]
)
def test_time_left_in_words(seconds: float | None, words: str) -> None:
    assert in_words(seconds) == words
