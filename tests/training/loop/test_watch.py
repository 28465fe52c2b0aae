"""The first number that is not finite: its name, value and step."""

from __future__ import annotations

import math

import torch

from edgemim.training.loop.watch import FiniteWatch

INF, NAN = float("inf"), float("nan")


def watch(*steps: dict[str, float]) -> FiniteWatch:
    found = FiniteWatch()
    for step, values in enumerate(steps):
        found.see({k: torch.tensor(v) for k, v in values.items()}, step)
    return found


def test_while_all_are_finite_there_is_none() -> None:
    assert FiniteWatch().first() is None
    assert watch({"a": 1.0, "loss": 3e38}, {"a": -2.0, "loss": 0.0}).first() is None


def test_the_earliest_step_wins_and_is_remembered() -> None:
    found = watch({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": -INF}, {"a": NAN, "b": 1.0}, {"a": 1.0, "b": 1.0})
    assert found.first() == ("b", -INF, 1)


def test_within_a_step_the_first_name_wins() -> None:
    first = watch({"a": 1.0, "b": NAN, "loss": NAN}).first()
    assert first is not None
    name, value, step = first
    assert (name, step) == ("b", 0)
    assert math.isnan(value)
