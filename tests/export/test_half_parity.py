"""What fp16 may lose, and how a loss is reported."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgemim.errors import EdgemimError
from edgemim.export.half_parity import TOLERANCE, check_half

# The average of twelve numbers, times 100, squared and rooted: half overflows above 256.
_TEXT = """
    g (float[1, 3, 2, 2] x) => (float[1, 3] y) <float16 scale = {100}, int64[2] axes = {2, 3}>
    { h = Cast <to = 10> (x)  m = ReduceMean <keepdims = 0> (h, axes)  s = Mul (m, scale)
      q = Mul (s, s)  r = Sqrt (q)  y = Cast <to = 1> (r) }
"""


@pytest.fixture
def check(graph):
    def call(images, expected, where="nowhere"):
        model = graph(_TEXT)
        model.graph.initializers["scale"].const_value = ir.tensor(np.float16(100), name="scale")
        data = ir.to_proto(model).SerializeToString()
        return check_half(model, data, images, {"y": expected}, explain=lambda: where)["y"]

    return call


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0.1, 1, (2, 3, 2, 2)).astype(np.float32)


def test_rounding_passes_and_is_measured(check, images):
    expected = images.mean(axis=(2, 3)) * 100
    found = check(images, expected)
    # Five roundings of half a step each, at most; at least one of six outputs is no float16.
    assert 2**-14 < found.max_relative < 5 * 2**-11
    assert 1 - 1e-5 < found.cosine_worst < 1
    assert (found.least_cosine, found.tolerance) == (0.999, TOLERANCE)


def test_an_overflow_that_onnxruntime_hides_is_found(check, images):
    expected = images.mean(axis=(2, 3)) * 1000
    with pytest.raises(EdgemimError, match=r"further from torch than rounding explains: y of one .*; see b\.1; leave"):
        check(images * 10, expected, where="see b.1")


def test_an_error_beyond_rounding_is_refused(check, images):
    expected = images.mean(axis=(2, 3)) * 100
    expected[1, 2] *= 1.2
    with pytest.raises(EdgemimError, match=r"an error of 0\.1\d* of its largest value \(at most 0\.062\)"):
        check(images, expected)


def test_outputs_in_another_direction_are_refused(check, images):
    with pytest.raises(EdgemimError, match=r"y of one golden image has the cosine 0 \(at least 0\.999\)"):
        check(images, np.zeros((2, 3), np.float32))
