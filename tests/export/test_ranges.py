"""The largest magnitude of every tensor."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgemim.export.ranges import largest_values


def _images(*values):
    return np.stack([np.full((3, 2, 2), value, np.float32) for value in values])


def test_every_float_tensor_has_the_largest_magnitude_over_all_images(graph):
    # Worked: x is -4 or 3, so x * 2 is -8 or 6, relu 6, and the sum of 12 numbers 72.
    model = graph("""
        g (float[1, 3, 2, 2] x) => (float[1, 1, 1, 1] y) <float two = {2.0}, int64[3] axes = {1, 2, 3}>
        { a = Mul (x, two)  b = Relu (a)  c = Cast <to = 7> (b)  y = ReduceSum (b, axes) }
    """)
    before = ir.to_proto(model).SerializeToString()
    assert largest_values(model, _images(-4, 3)) == {"x": 4, "a": 8, "b": 6, "y": 72}
    assert ir.to_proto(model).SerializeToString() == before


def test_images_need_not_fill_the_batch(graph):
    model = graph("g (float[2, 3, 2, 2] x) => (float[2, 3, 2, 2] y) { y = Neg (x) }")
    assert largest_values(model, _images(1, 2, -7)) == {"x": 7, "y": 7}
    assert largest_values(model, _images(-7)) == {"x": 7, "y": 7}
