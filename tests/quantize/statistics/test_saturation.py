"""When ranges cut off too much, one sentence says where."""

from __future__ import annotations

import numpy as np

from edgemim.quantize.statistics.observed import Observed
from edgemim.quantize.statistics.saturation import saturation_notes


def spread(count, top):
    """`count` values of 1, and one in a hundred of them as large as `top`."""
    observed = Observed.empty()
    observed.add(np.where(np.arange(count) % 100 == 0, top, 1).astype(np.float32))
    return observed


STATISTICS = {"a:input": spread(1000, 4.0), "b:input": spread(10_000, 64.0), "c:input": spread(100, 1.0)}


def test_nothing_is_said_while_little_is_cut_off():
    assert saturation_notes(STATISTICS, {"a:input": 4.0, "b:input": 64.0, "c:input": 1.0}) == ()
    # What lies within half a step of the range is rounded to its end like other values to theirs.
    assert saturation_notes(STATISTICS, {"a:input": 4.0 * 0.997}) == ()
    tail = Observed.empty()
    tail.add(np.concatenate([np.ones(9999), [8.0]]).astype(np.float32))
    assert saturation_notes({"tail": tail}, {"tail": 2.0}) == ()  # a ten-thousandth


def test_the_worst_tensor_is_named_with_its_share():
    (note,) = saturation_notes(STATISTICS, {"a:input": 4.0, "b:input": 8.0, "c:input": 0.5})
    assert "100.00% of the values of c:input" in note
    assert "2 of 3 tensors" in note
    (note,) = saturation_notes(STATISTICS, {"a:input": 2.0})
    assert "1.00% of the values of a:input" in note
    assert "tensors" not in note


def test_a_tensor_without_a_histogram_may_keep_its_maximum():
    bare = Observed.empty(histogram=False)
    bare.add(np.float32([1, 2]))
    assert saturation_notes({"bare": bare}, {"bare": 2.0}) == ()
