"""`edgemim.runtime.power.trace`: worked examples."""

from __future__ import annotations

import numpy as np
import pytest

from edgemim.runtime.power.trace import Trace, duration


def watts(*pairs: tuple[float, float], gap: float = 1.0) -> Trace:
    times, values = zip(*pairs, strict=True)
    return Trace(seconds=np.array(times), values=np.array(values)[:, None], counts=False, longest_gap_s=gap)


def test_power_runs_straight_from_one_reading_to_the_next() -> None:
    # 10 W until 1 s, then up to 30 W at 2 s: 10 J and 20 J. A window that ends within a step gets its share of it.
    trace = watts((0, 10), (1, 10), (2, 30))
    assert trace.mean_watts([(0, 2)]) == pytest.approx([15])
    assert trace.mean_watts([(0, 1)]) == pytest.approx([10])
    assert trace.mean_watts([(0.5, 1.5)]) == pytest.approx([15])


def test_uneven_readings_weigh_as_long_as_they_last() -> None:
    # 1 s at 10 W and 0.1 s between 10 W and 20 W, 11.5 J; the mean of the three readings would be 13.3 W.
    assert watts((0, 10), (1, 10), (1.1, 20)).mean_watts([(0, 1.1)]) == pytest.approx([11.5 / 1.1])


def test_what_lies_between_windows_does_not_count() -> None:
    trace = watts((0, 10), (1, 10), (1.001, 50), (2, 50), (2.001, 20), (3, 20))
    assert trace.mean_watts([(0, 1), (2.001, 3.0)]) == pytest.approx([15], rel=1e-3)
    assert trace.peak_watts([(0, 1), (2.001, 3)]) == pytest.approx([20])
    assert duration([(0, 1), (2, 3)]) == 2


def test_a_counters_energy_is_the_difference_of_its_readings() -> None:
    values = np.array([[0, 0], [4, 1], [10, 2], [10, 3]], dtype=float)
    trace = Trace(seconds=np.arange(4.0), values=values, counts=True, longest_gap_s=2)
    assert trace.mean_watts([(0, 2)]) == pytest.approx([5, 1])
    assert trace.mean_watts([(0.5, 1.5)]) == pytest.approx([5, 1])
    assert trace.mean_watts([(0, 3)]) == pytest.approx([10 / 3, 1])
    assert trace.peak_watts([(0, 3)]) == pytest.approx([6, 1])
    assert np.isnan(trace.peak_watts([(0.5, 1.5)])).all()


def test_neither_time_nor_energy_of_a_hole_counts() -> None:
    trace = watts((0, 10), (0.5, 10), (2.5, 50), (3, 50), gap=1.0)
    assert trace.mean_watts([(0, 3)]) == pytest.approx([30])
    assert trace.mean_watts([(-1, 0.5)]) == pytest.approx([10])
    assert np.isnan(trace.mean_watts([(1, 2)])).all()


def test_a_hole_between_readings_is_not_covered() -> None:
    trace = watts((0, 10), (0.5, 10), (2.5, 10), (3, 10), gap=1.0)
    assert trace.coverage([(0, 0.5)]) == pytest.approx(1)
    assert trace.coverage([(0, 3)]) == pytest.approx(1 / 3)
    assert trace.coverage([(0.25, 1.0)]) == pytest.approx(1 / 3)
    assert trace.readings([(0, 1), (2, 3)]) == 4


def test_what_lies_before_the_first_and_after_the_last_reading_is_not_covered() -> None:
    trace = watts((1, 10), (2, 10))
    assert trace.coverage([(0, 2)]) == pytest.approx(0.5)
    assert trace.coverage([(1, 4)]) == pytest.approx(1 / 3)
