"""What every range estimator promises, whatever it optimises."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from edgemim.quantize.ranges import RANGES
from edgemim.quantize.ranges._base import ZERO_THRESHOLD, RangeEstimator
from edgemim.quantize.statistics.observed import Observed

LEVELS = [127, 255]


@pytest.fixture(params=RANGES.names())
def estimator(request):
    found = RANGES.get(request.param)()
    assert isinstance(found, RangeEstimator)
    return found


def test_the_four_of_the_literature_are_there():
    assert {"max", "percentile", "mse", "entropy"} <= set(RANGES.names())


@pytest.mark.parametrize("levels", [1, 2, 7, 15, 100])
def test_any_number_of_levels_will_do(estimator, samples, levels):
    for name in ("normal", "outlier", "two-values"):
        assert 0 < estimator.threshold(samples[name].observed, levels=levels) <= samples[name].observed.maximum


def test_settings_are_frozen_fields(estimator):
    assert dataclasses.is_dataclass(estimator)
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimator.something = 1


@pytest.mark.parametrize("levels", LEVELS)
def test_a_threshold_is_positive_and_at_most_the_maximum(estimator, sample, levels):
    threshold = estimator.threshold(sample.observed, levels=levels)
    assert isinstance(threshold, float)
    assert 0 < threshold <= sample.observed.maximum


@pytest.mark.parametrize("levels", LEVELS)
def test_nothing_but_the_values_counts(estimator, sample, levels):
    threshold = estimator.threshold(sample.observed, levels=levels)
    again = Observed.empty()
    for part in np.array_split(sample.values[::-1], 7):
        again.add(-part)
    assert estimator.threshold(again, levels=levels) == threshold


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("factor", [2.0**-40, 2.0**5])
def test_it_has_the_unit_of_the_values(estimator, samples, sample_of, levels, factor):
    # By a power of two every bin moves by whole octaves; only roundings of the last bit are left.
    for name in ("gelu", "softmax", "outlier"):
        values = samples[name].values
        plain, scaled = (estimator.threshold(sample_of(v).observed, levels=levels) for v in (values, values * factor))
        assert scaled == pytest.approx(plain * factor, rel=1e-12)


@pytest.mark.parametrize("levels", LEVELS)
def test_a_tensor_of_zeros_gets_a_scale_that_every_dtype_holds(estimator, sample_of, levels):
    for values in ([0.0, -0.0, 0.0], [1e-42, 0.0]):
        threshold = estimator.threshold(sample_of(values).observed, levels=levels)
        assert threshold == ZERO_THRESHOLD
        assert np.float16(threshold / levels) >= np.finfo(np.float16).tiny


@pytest.mark.parametrize("levels", LEVELS)
def test_very_small_values_get_a_scale_that_fp32_holds(estimator, sample_of, levels):
    threshold = estimator.threshold(sample_of([2e-33, 1e-40, 1e-38, 0, 0, 0]).observed, levels=levels)
    assert np.float32(threshold / levels) >= np.finfo(np.float32).tiny


def test_a_single_value_is_kept(estimator, sample_of):
    for value in (1.0, 3.7, 1e-12, 1e30):
        # A bin is 2^-7 of its octave wide.
        found = estimator.threshold(sample_of([value]).observed, levels=127)
        assert found == pytest.approx(value, rel=2**-7)


@pytest.mark.parametrize("name", [name for name in RANGES.names() if name != "max"])
def test_a_histogram_that_is_needed_and_missing_is_said(name):
    bare = Observed.empty(histogram=False)
    bare.add(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="without a histogram"):
        RANGES.get(name)().threshold(bare, levels=127)


def test_the_maximum_needs_no_histogram():
    bare = Observed.empty(histogram=False)
    bare.add(np.float32([1, -3]))
    assert RANGES.get("max")().threshold(bare, levels=127) == 3


def test_a_tensor_takes_milliseconds(estimator, samples):
    # A model has a hundred and more; the fastest of five leaves out what else the machine does.
    for sample in samples.values():
        seconds = []
        for _ in range(5):
            start = time.thread_time()
            estimator.threshold(sample.observed, levels=255)
            seconds.append(time.thread_time() - start)
        assert min(seconds) < 0.02
