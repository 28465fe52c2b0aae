"""The percentile against the sorted values."""

from __future__ import annotations

import numpy as np
import pytest

from edgemim.errors import ConfigError
from edgemim.quantize.ranges.percentile import Percentile


@pytest.mark.parametrize("share", [50.0, 90.0, 99.0, 99.9, 99.99, 99.999])
def test_it_is_the_sorted_value_up_to_the_width_of_a_bin(sample, share):
    threshold = Percentile(share=share).threshold(sample.observed, levels=127)
    magnitudes = sample.magnitudes
    wanted = magnitudes[int(np.ceil(len(magnitudes) * share / 100)) - 1]
    if wanted == 0:
        assert threshold == sample.observed.maximum
    else:
        assert threshold == pytest.approx(wanted, rel=2**-7)


@pytest.mark.parametrize("share", [90.0, 99.0, 99.9])
def test_the_share_that_is_cut_off_is_the_one_asked_for(samples, share):
    for name in ("normal", "softmax", "heavy"):
        observed = samples[name].observed
        threshold = Percentile(share=share).threshold(observed, levels=127)
        # Both read the same histogram; what is left is the rounding of the sums.
        assert observed.share_above(threshold) == pytest.approx(1 - share / 100, rel=1e-9)


def test_all_of_it_is_the_maximum(sample):
    assert Percentile(share=100).threshold(sample.observed, levels=127) == sample.observed.maximum


def test_by_hand(sample_of):
    # 2 of 4 values lie in the bin of 1, which ends at 1 + 2^-7: half of the way through all of them is its end, and a
    # quarter is its middle.
    observed = sample_of([1, 1, 4, 8]).observed
    assert Percentile(share=50).threshold(observed, levels=127) == 1 + 2**-7
    assert Percentile(share=25).threshold(observed, levels=127) == 1 + 2**-8


@pytest.mark.parametrize("share", [0, -1, 100.1])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ConfigError, match="share must lie in"):
        Percentile(share=share)
