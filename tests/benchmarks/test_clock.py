"""Timing in turn."""

from __future__ import annotations

import time

import pytest
from _parts.clock import compared, time_in_turn


def test_steps_take_turns_after_an_untimed_round() -> None:
    order: list[str] = []
    seconds = time_in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_the_clock_covers_the_step() -> None:
    seconds = time_in_turn({"sleep": lambda: time.sleep(0.02)}, rounds=1)
    assert 0.02 <= seconds["sleep"][0] < 2


def test_a_ratio_is_taken_within_a_round() -> None:
    # The machine is half as fast in the second round: both take twice as long, and the ratio stays.
    rows = compared({"a": [1.0, 2.0, 1.0], "b": [2.0, 4.0, 3.0]}, "b")
    assert rows["a"]["ratio"] == pytest.approx(0.5)
    assert rows["a"]["ratio_range"] == pytest.approx([0.3333, 0.5])
    assert rows["b"]["ratio"] == 1.0
    assert rows["b"]["median_s"] == 3.0
