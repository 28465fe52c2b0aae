"""Numbers about two tensors, worked by hand, and what they are blind to on purpose."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgemim.export.ladder.agreement import EQUAL_DB, Comparison


def _agree(*pairs):
    comparison = Comparison()
    for reference, found in pairs:
        comparison.add(np.asarray(reference, np.float32), np.asarray(found, np.float32))
    return comparison.result()


def test_a_worked_example():
    # |(3, 4)|^2 = 25 and |(0, 1)|^2 = 1; (3, 4).(3, 5) = 29.
    found = _agree(([[3, 4]], [[3, 5]]))
    assert found.snr_db == pytest.approx(10 * math.log10(25))
    assert found.relative_error == pytest.approx(0.2)
    assert found.cosine == pytest.approx(29 / (5 * math.sqrt(34)))
    assert (found.max_abs, found.largest, found.finite) == (1, 4, True)


def test_images_share_one_ratio_and_have_a_cosine_each():
    # Noise 1 on a signal of 25, and none on one of 75.
    found = _agree(([[3, 4]], [[3, 5]]), ([[5, 5 * math.sqrt(2)]], [[5, 5 * math.sqrt(2)]]))
    assert found.snr_db == pytest.approx(20)
    assert found.cosine_worst == pytest.approx(29 / (5 * math.sqrt(34)))
    assert found.cosine == pytest.approx((1 + found.cosine_worst) / 2)


def test_no_difference_has_a_number_that_json_can_hold():
    found = _agree(([[1, 2]], [[1, 2]]))
    assert (found.snr_db, found.relative_error, found.max_abs, found.cosine) == (EQUAL_DB, 0, 0, 1)


def test_noise_without_a_signal_is_the_worst_there_is():
    assert _agree(([[0, 0]], [[0, 1]])).snr_db == -EQUAL_DB


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("position", [0, 1])
def test_one_value_that_is_not_finite_spoils_all_images(bad, position):
    pairs = [([[1, 2]], [[1, 2]]), ([[1, 2]], [[1, 2]])]
    pairs[position] = ([[1, 2]], [[1, bad]])
    found = _agree(*pairs)
    assert not found.finite
    assert (found.snr_db, found.aligned_db, found.cosine, found.max_abs) == (None, None, None, None)


def test_a_float16_tensor_is_compared_in_full_precision():
    comparison = Comparison()
    comparison.add(np.array([[60000, 60000]], np.float32), np.array([[60000, 60000]], np.float16))
    found = comparison.result()
    # Their squares do not fit into float16; 60000 does, exactly.
    assert found.snr_db == EQUAL_DB


@pytest.mark.parametrize("shape", [(1, 50, 8), (1, 8, 5, 5)], ids=["tokens", "map"])
def test_a_gain_and_an_offset_per_channel_are_told_from_noise(shape):
    rng = np.random.default_rng(0)
    axis = 1 if len(shape) == 4 else 2
    spread = [1] * len(shape)
    spread[axis] = 8
    gain, offset = rng.uniform(0.2, 5, spread), rng.standard_normal(spread)
    images = [rng.standard_normal(shape) for _ in range(2)]
    rescaled = _agree(*((image, image * gain + offset) for image in images))
    assert rescaled.snr_db < 10
    # What float32 rounds off.
    assert rescaled.aligned_db > 120
    noise = 0.1 * rng.standard_normal(shape)
    noisy = _agree(*((image, (image + noise) * gain + offset) for image in images))
    # 1 / 0.1^2 is 20 dB; the fit explains some of the noise of few samples.
    assert noisy.aligned_db == pytest.approx(20, abs=1)


def test_a_fit_to_few_samples_is_not_believed():
    rng = np.random.default_rng(0)
    pairs = [(rng.standard_normal((1, 8)), rng.standard_normal((1, 8))) for _ in range(3)]
    assert _agree(*pairs).aligned_db is None
