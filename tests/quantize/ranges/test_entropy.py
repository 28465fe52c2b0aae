"""The entropy threshold against a plain implementation of the published algorithm, bin by bin."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgemim.quantize.ranges.entropy import Entropy, divergences, resample


def plain_divergence(histogram, kept, groups):
    """KL(P || Q) as in the source's pseudocode: clip, merge into groups, expand, compare."""
    p = list(histogram[:kept])
    p[-1] += sum(histogram[kept:])
    q = [0.0] * kept
    for group in range(groups):
        members = range(kept * group // groups, kept * (group + 1) // groups)
        filled = [i for i in members if histogram[i] > 0]
        for i in filled:
            q[i] = sum(histogram[j] for j in members) / len(filled)
    total_p, total_q = sum(p), sum(q)
    divergence = 0.0
    for a, b in zip(p, q, strict=True):
        if a > 0:
            divergence += math.inf if b == 0 else a / total_p * math.log(a / total_p / (b / total_q))
    return divergence


@pytest.mark.parametrize("groups", [4, 8])
def test_the_divergences_are_those_of_a_plain_loop(groups):
    rng = np.random.default_rng(groups)
    histogram = np.floor(rng.exponential(10, 64) * np.exp(-np.arange(64) / 12))
    histogram[40:45] = 0
    kept = np.arange(groups, 65)
    found = divergences(histogram, kept, groups)
    expected = [plain_divergence(histogram, int(k), groups) for k in kept]
    assert np.isinf(expected).any()
    np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
    finite = np.isfinite(expected)
    # Sums of up to 64 logarithms in another order.
    np.testing.assert_allclose(found[finite], np.array(expected)[finite], atol=1e-12)


def test_by_hand():
    # P = (6, 2 + 2) / 10 and Q: both bins in one group, (4, 4) / 8.
    histogram, kept = np.array([6.0, 2.0, 2.0]), np.array([2])
    expected = 0.6 * math.log(0.6 / 0.5) + 0.4 * math.log(0.4 / 0.5)
    assert divergences(histogram, kept, 1)[0] == pytest.approx(expected, rel=1e-12)


def test_resampling_keeps_every_value_near_its_place(sample):
    edges, counts = sample.observed.filled()
    histogram = resample(edges, counts, 2048)
    magnitudes = sample.magnitudes
    found = np.cumsum(histogram)
    assert found[-1] == pytest.approx((magnitudes > 0).sum(), rel=1e-12)
    # A value moves by a bin of the fine histogram at most, 2^-7 of its magnitude.
    linear = np.linspace(0, edges[-1], 2049)[1:]
    nonzero = magnitudes[magnitudes > 0]
    least = np.searchsorted(nonzero, linear * (1 - 2**-7) - 1e-9, side="right")
    most = np.searchsorted(nonzero, linear * (1 + 2**-7) + 1e-9, side="right")
    assert (found >= least - 1e-6).all()
    assert (found <= most + 1e-6).all()


@pytest.mark.parametrize(("levels", "bins"), [(127, 2048), (255, 4096)])
def test_no_other_threshold_that_is_tried_has_a_smaller_divergence(samples, levels, bins):
    for name in ("laplace", "gelu", "outlier"):
        observed = samples[name].observed
        histogram = resample(*observed.filled(), bins)
        chosen = Entropy().threshold(observed, levels=levels) / observed.maximum * bins
        assert chosen == pytest.approx(round(chosen), abs=1e-6)
        best = plain_divergence(histogram, round(chosen), levels + 1)
        for kept in range(levels + 1, bins + 1, (levels + 1) * 2):
            assert best <= plain_divergence(histogram, kept, levels + 1) + 1e-12


@pytest.mark.parametrize("draw", ["laplace", "standard_normal", "standard_exponential", "standard_t"])
def test_it_is_near_the_threshold_of_a_linear_histogram_of_the_values(sample_of, draw):
    # So many values that few of the linear bins are empty, which the resampled histogram cannot show.
    rng = np.random.default_rng(0)
    values = rng.standard_t(3, 1_000_000) if draw == "standard_t" else getattr(rng, draw)(size=1_000_000)
    observed = sample_of(values).observed
    linear = np.histogram(np.abs(values), bins=2048, range=(0, observed.maximum))[0].astype(np.float64)
    kept = np.arange(128, 2049)
    published = kept[np.argmin(divergences(linear, kept, 128))] / 2048 * observed.maximum
    # The minimum is flat, and the position of single values in the tail moves it.
    assert Entropy().threshold(observed, levels=127) == pytest.approx(published, rel=0.1)
