"""The float32 copy of an fp16 graph rounds where a device does, which ONNX Runtime itself does not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgemim.export.rounding import round_every_value

# a is read by an op that brings it back to scale.
_TEXT = """
    g (float[4] x) => (float[4] y) <float16 third = {13653}>
    { h = Cast <to = 10> (x)  a = Mul (h, h)  b = Sqrt (a)  c = Identity (b)
      d = Mul (c, third)  y = Cast <to = 1> (d) }
"""
_X = np.float32([300, 1, 0.003, 1e-5])


@pytest.fixture
def model(graph):
    return graph(_TEXT)


def test_onnxruntime_alone_hides_an_overflow(model, run):
    # 300^2 is no float16. If this fails, ONNX Runtime rounds by itself and the copy is needed no more.
    assert np.isfinite(run(model, x=_X)[0]).all()


def test_the_copy_computes_what_numpy_computes_in_half(model, run):
    h = _X.astype(np.float16)
    third = model.graph.initializers["third"].const_value.numpy()
    with np.errstate(over="ignore"):
        expected = np.sqrt(h * h) * third
    assert np.isinf(expected[0])
    assert expected[3] == 0, "the square of 1e-5 is below the smallest subnormal"
    np.testing.assert_array_equal(run(round_every_value(model), x=_X)[0], expected.astype(np.float32))


def test_the_copy_is_float_but_for_casts_and_leaves_the_graph_alone(model):
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    copy = round_every_value(model)
    onnx.checker.check_model(ir.to_proto(copy), full_check=True)
    for node in copy.graph:
        values = [*node.inputs, *node.outputs]
        assert node.op_type == "Cast" or {value.dtype for value in values} == {ir.DataType.FLOAT}
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
