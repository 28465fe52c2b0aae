"""Histogram and maxima of one activation, against plain numpy over all values at once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgemim.quantize.statistics.histogram import BINS, bin_of, lower_edges
from edgemim.quantize.statistics.observed import NotFinite, Observed

finite = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)
some_values = hnp.arrays(np.float32, st.integers(1, 40), elements=finite)
several = st.lists(some_values, min_size=1, max_size=6)


def observe(*arrays, **settings):
    observed = Observed.empty(**settings)
    for array in arrays:
        observed.add(array)
    return observed


def facts(observed):
    """Everything that is known, in a form that compares."""
    per_channel = observed.channel_maximum
    counts = None if observed.counts is None else observed.counts.tobytes()
    channels = None if per_channel is None else per_channel.tobytes()
    return observed.elements, observed.maximum, observed.negative, counts, channels


def plain_histogram(values):
    """Counts by a dictionary of bit patterns, one value at a time."""
    counts = np.zeros(BINS, dtype=np.int64)
    for value in values.ravel():
        counts[int.from_bytes(np.float32(abs(value)).tobytes(), "little") >> 16] += 1
    return counts


@settings(max_examples=30)
@given(several)
def test_it_equals_one_look_at_all_values(arrays):
    observed = observe(*arrays)
    everything = np.concatenate(arrays)
    assert observed.elements == everything.size
    assert observed.maximum == np.abs(everything).max()
    assert observed.negative == bool((everything < 0).any())
    np.testing.assert_array_equal(observed.counts, plain_histogram(everything))


@settings(max_examples=30)
@given(several, st.randoms())
def test_order_and_grouping_of_the_images_do_not_matter(arrays, random):
    straight = observe(*arrays)
    shuffled = random.sample(arrays, len(arrays))
    cut = random.randint(0, len(arrays))
    left, right = observe(*shuffled[:cut]), observe(*shuffled[cut:])
    left.merge(right)
    assert facts(left) == facts(straight)


@settings(max_examples=30)
@given(hnp.arrays(np.float32, (3, 5, 4), elements=finite), st.integers(-3, 2))
def test_each_channel_has_its_own_maximum(values, axis):
    observed = observe(values / 2, values, channel_axis=axis)
    moved = np.moveaxis(values, axis, 0)
    np.testing.assert_array_equal(observed.channel_maximum, [np.abs(channel).max() for channel in moved])
    assert observed.maximum == observed.channel_maximum.max()


def test_merging_keeps_the_channels_of_both():
    one = observe(np.float32([[1, -2], [0.5, 0]]), channel_axis=-1)
    other = observe(np.float32([[-3, 1]]), channel_axis=-1)
    nothing = Observed.empty(channel_axis=-1)
    for seen in (other, nothing):
        one.merge(seen)
    assert one.channel_maximum.tolist() == [3, 2]
    nothing.merge(one)
    assert facts(nothing) == facts(one)


def test_values_that_are_not_next_to_each_other_are_counted_too():
    values = np.random.default_rng(0).standard_normal((6, 8, 4)).astype(np.float32)
    for view in (values.transpose(2, 0, 1), values[::2, :, 1:3]):
        assert facts(observe(view)) == facts(observe(np.ascontiguousarray(view)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [None, -1])
def test_what_is_not_finite_is_refused_and_leaves_no_trace(bad, axis):
    observed = observe(np.ones((2, 3), np.float32), channel_axis=axis)
    before = facts(observed)
    with pytest.raises(NotFinite):
        observed.add(np.float32([[5, bad, 0], [0, 0, 7]]))
    assert facts(observed) == before


def test_a_negative_zero_is_a_zero():
    observed = observe(np.float32([-0.0, 0.0, 1.0]))
    assert not observed.negative
    assert observed.counts[0] == 2
    assert observed.counts.sum() == 3


def test_without_a_histogram_the_maxima_are_the_same():
    values = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    bare, whole = (observe(values, histogram=histogram, channel_axis=-1) for histogram in (False, True))
    assert bare.counts is None
    assert (bare.maximum, bare.elements, bare.negative) == (whole.maximum, whole.elements, whole.negative)
    np.testing.assert_array_equal(bare.channel_maximum, whole.channel_maximum)
    with pytest.raises(ValueError, match="without a histogram"):
        bare.filled()
    assert bare.share_above(bare.maximum) == 0


@given(st.floats(0, float(np.finfo(np.float32).max), width=32))
def test_a_magnitude_lies_between_the_edges_of_its_bin(magnitude):
    index = bin_of(magnitude)
    assert lower_edges(index) <= magnitude < lower_edges(index + 1) or magnitude > 3.39e38


def test_a_bin_is_at_most_a_128th_of_its_values_wide():
    normal = np.arange(int(bin_of(2.0**-126)), int(bin_of(3e38)))
    edges = lower_edges(normal)
    assert (np.diff(edges) <= edges[:-1] * 2**-7).all()


# Three values in [1, 2) and one at 8; the bins of 1 and 1.5 are 2^-7 wide.
WORKED = np.float32([1.0, -1.0, 1.5, 8.0])


@pytest.mark.parametrize(
    ("threshold", "share"),
    [(0, 1), (0.5, 1), (1, 1), (1 + 2**-7, 0.5), (1.5, 0.5), (1.5 + 2**-8, 0.375), (2, 0.25), (8, 0), (9, 0)],
)
def test_the_share_beyond_a_threshold(threshold, share):
    assert observe(WORKED).share_above(threshold) == share


@settings(max_examples=30)
@given(some_values.filter(lambda values: np.abs(values).max() > 1e-30), st.floats(0, 1))
def test_the_share_is_that_of_the_values_up_to_those_in_the_threshold_s_bin(values, position):
    observed, magnitudes = observe(values), np.abs(values).astype(np.float64)
    threshold = position * observed.maximum
    undecided = (bin_of(magnitudes) == bin_of(threshold)).mean()
    share = (magnitudes > threshold).mean()
    # One rounding of the sum.
    assert share - undecided - 1e-12 <= observed.share_above(threshold) <= share + undecided + 1e-12


def test_the_filled_part_holds_everything_and_ends_at_the_maximum():
    edges, counts = observe(WORKED).filled()
    assert counts.sum() == 4
    assert edges[0] == 1
    assert edges[-1] == pytest.approx(8, rel=2e-6)
    assert all(a < b for a, b in itertools.pairwise(edges))
    for observed in (Observed.empty(), observe(np.zeros(3, np.float32))):
        edges, counts = observed.filled()
        assert (len(edges), len(counts)) == (1, 0)
