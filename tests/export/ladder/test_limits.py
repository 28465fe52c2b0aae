"""When a tensor departs, and which module of a block is blamed."""

from __future__ import annotations

import numpy as np
import pytest

from edgemim.export.ladder.agreement import Agreement, Comparison
from edgemim.export.ladder.limits import LIMITS, culprit

INT8 = LIMITS["int8"]


def _at(snr_db: float | None, aligned_db: float | None = None, *, max_abs: float = 1.0) -> Agreement:
    finite = snr_db is not None
    return Agreement(
        snr_db=snr_db,
        aligned_db=snr_db if aligned_db is None else aligned_db,
        relative_error=0.1,
        cosine=0.9,
        cosine_worst=0.9,
        max_abs=max_abs if finite else None,
        largest=2.0 if finite else None,
        finite=finite,
    )


@pytest.mark.parametrize(("precision", "bits"), [("fp32", 24), ("fp16", 11), ("bf16", 8)])
def test_the_ratio_of_one_rounding_is_what_rounding_measures(precision, bits):
    rng = np.random.default_rng(0)
    values = rng.standard_normal(100_000)
    step = 2.0 ** (np.floor(np.log2(np.abs(values))) - bits + 1)
    noise = np.square(np.round(values / step) * step - values).sum()
    measured = 10 * np.log10(np.square(values).sum() / noise)
    # Values spread logarithmically would give it exactly, normal ones within a decibel.
    assert LIMITS[precision].rounding_db == pytest.approx(measured, abs=1)


def test_the_ratio_of_one_int8_rounding_is_what_rounding_measures():
    values = np.random.default_rng(0).standard_normal(100_000)
    step = 4 / 127
    noise = np.square(np.clip(np.round(values / step), -127, 127) * step - values).sum()
    # What lies beyond four sigma adds a little.
    assert INT8.rounding_db == pytest.approx(10 * np.log10(np.square(values).sum() / noise), abs=0.5)


def test_the_least_int8_ratio_is_a_cosine_of_0_99():
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((1, 100_000))
    noise = rng.standard_normal(signal.shape) * 10 ** (-INT8.least_db / 20)
    comparison = Comparison()
    comparison.add(signal, signal + noise)
    assert comparison.result().cosine == pytest.approx(0.99, abs=5e-4)


@pytest.mark.parametrize(
    ("before", "least"),
    [
        (None, 20.8),  # 40.8 - 10 for ten roundings, - 10 for the drop
        (300.0, 20.8),
        (38.0, 27.0),  # 28 would be too strict: not more than 17 + 10
        (33.0, 23.0),
        (20.0, 17.0),
    ],
)
def test_a_block_may_lose_ten_decibels_down_to_the_limit(before, least):
    assert INT8.threshold_db(before) == pytest.approx(least)
    assert INT8.departs(_at(least - 0.1), before)
    assert not INT8.departs(_at(least + 0.1), before)


def test_fp32_is_held_to_the_tolerance_of_the_parity_check():
    # 1e-4 of the largest magnitude, 2.
    assert LIMITS["fp32"].departs(_at(300, max_abs=2.1e-4), None)
    assert not LIMITS["fp32"].departs(_at(10, max_abs=1.9e-4), None)


@pytest.mark.parametrize("precision", LIMITS)
def test_values_that_are_not_finite_depart(precision):
    assert LIMITS[precision].departs(_at(None), None)


# The block of a ViT: what is computed from what, and whether through weights.
_SOURCES = {
    "norm1": {"before": False},
    "qkv": {"norm1": True},
    "proj": {"qkv": True},
    "norm2": {"proj": False, "before": False},
    "fc1": {"norm2": True},
    "fc2": {"fc1": True},
    "block": {"fc2": False, "proj": False, "before": False},
    "after": {"block": False},
}
_HEALTHY = {"before": 36, "norm1": 35, "qkv": 34, "proj": 31, "norm2": 35, "fc1": 33, "fc2": 31, "block": 35}


def _blame(**decibels: object) -> str | None:
    found = {
        name: _at(*value) if isinstance(value, tuple) else _at(value)
        for name, value in {**_HEALTHY, "after": 15, **decibels}.items()
    }
    inside = [name for name in _HEALTHY if name != "before"]
    return culprit(found, inside, _SOURCES, INT8, found["before"].snr_db)


def test_the_module_that_loses_most_is_blamed_not_one_that_is_always_weak():
    assert _blame(proj=24, fc2=2, block=12) == "fc2"


def test_what_follows_a_damaged_module_is_not_blamed():
    assert _blame(qkv=8, proj=7, norm2=14, fc1=12, fc2=11, block=13) == "qkv"


def test_a_layer_that_was_rescaled_is_passed_over():
    # SmoothQuant: the norm's output is divided by what the next layer is multiplied with.
    assert _blame(norm1=(0, 35), fc2=5, block=12) == "fc2"
    # Also where the layer that undoes it is the damaged one.
    assert _blame(norm1=(0, 35), qkv=5, proj=4, block=12) == "qkv"


def test_a_rescaled_value_is_passed_over_through_another_one():
    # Queries and keys are scaled against each other, values against the projection.
    assert _blame(norm1=(0, 35), qkv=(1, 34), fc2=5, block=12) == "fc2"


def test_wrong_scales_per_channel_look_like_a_rescaled_layer_but_are_never_undone():
    assert _blame(norm1=(0, 35), fc2=(8, 31), block=(12, 33)) == "fc2"


def test_a_block_whose_own_sum_is_wrong_is_blamed_itself():
    assert _blame(block=5) == "block"


def test_the_first_value_that_is_not_finite_is_blamed():
    assert _blame(fc1=None, fc2=None, block=None, qkv=10) == "fc1"
