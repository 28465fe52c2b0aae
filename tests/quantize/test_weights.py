"""Changing constants of a graph: one node's own, and nobody else's."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from edgemim.quantize.weights import add_to_bias, scale_constant, write_constant

_RNG = np.random.default_rng(0)
_SHIFT = np.linspace(-2, 2, 6)


def _model(text, opset=17, **constants):
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]> g {text}')
    for name, array in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    for node in proto.graph.node:
        node.name = f"node_{node.output[0]}"
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def _run(model, **inputs):
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def _node(model, op_type):
    return next(node for node in model.graph if node.op_type == op_type)


def _normal(*shape, dtype=np.float32):
    return _RNG.standard_normal(shape).astype(dtype)


_LINEARS = {
    "an Add after a MatMul": ("a = MatMul (x, w) y = Add (a, b)", {"w": (8, 6), "b": (6,)}, "MatMul"),
    "an Add before which the bias stands": ("a = MatMul (x, w) y = Add (b, a)", {"w": (8, 6), "b": (6,)}, "MatMul"),
    "a MatMul without": ("y = MatMul (x, w)", {"w": (8, 6)}, "MatMul"),
    "a Gemm": ("y = Gemm <transB = 1> (x, w, b)", {"w": (6, 8), "b": (6,)}, "Gemm"),
    "a Gemm with beta": ("y = Gemm <beta = 0.5> (x, w, b)", {"w": (8, 6), "b": (6,)}, "Gemm"),
    "a Gemm whose bias has rows": ("y = Gemm (x, w, b)", {"w": (8, 6), "b": (1, 6)}, "Gemm"),
    "a Gemm without": ("y = Gemm (x, w)", {"w": (8, 6)}, "Gemm"),
}


@pytest.mark.parametrize(("text", "shapes", "op_type"), _LINEARS.values(), ids=_LINEARS)
def test_what_is_added_to_a_bias_comes_out(text, shapes, op_type):
    model = _model(f"(float[4, 8] x) => (float[4, 6] y) {{ {text} }}", **{n: _normal(*s) for n, s in shapes.items()})
    x = _normal(4, 8)
    (before,) = _run(model, x=x)
    add_to_bias(_node(model, op_type), _SHIFT)
    (after,) = _run(model, x=x)
    # Sums of eight float32 products.
    np.testing.assert_allclose(after, before + _SHIFT, atol=2e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_gets_one_number_per_channel(bias):
    inputs = "x, w, b" if bias else "x, w"
    constants = {"w": _normal(6, 3, 2, 2), **({"b": _normal(6)} if bias else {})}
    model = _model(f"(float[1, 3, 4, 4] x) => (float[1, 6, 3, 3] y) {{ y = Conv ({inputs}) }}", **constants)
    x = _normal(1, 3, 4, 4)
    (before,) = _run(model, x=x)
    add_to_bias(_node(model, "Conv"), _SHIFT)
    np.testing.assert_allclose(_run(model, x=x)[0], before + _SHIFT[:, None, None], atol=2e-6)


def test_with_a_new_bias_a_name_means_the_output_that_has_it():
    model = _model(
        "(float[4, 8] x) => (float[4, 6] z, float[4, 6] u) { y = MatMul (x, w)  z = Relu (y)  u = Neg (y) }",
        w=_normal(8, 6),
    )
    add_to_bias(_node(model, "MatMul"), _SHIFT)
    assert [[v.name for v in node.inputs] for node in model.graph if node.op_type in ("Relu", "Neg")] == [["y"], ["y"]]
    assert _node(model, "Add").outputs[0].name == "y"
    assert _node(model, "Add").outputs[0].shape == [4, 6]
    names = [node.name for node in model.graph]
    assert len({*names}) == len(names)


def test_a_graph_output_keeps_its_name_with_a_new_bias():
    model = _model("(float[4, 8] x) => (float[4, 6] y) { y = MatMul (x, w) }", w=_normal(8, 6))
    add_to_bias(_node(model, "MatMul"), _SHIFT)
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_who_else_reads_a_bias_keeps_the_old_one():
    model = _model(
        "(float[4, 8] x) => (float[4, 6] y, float[4, 6] v)"
        "{ a = MatMul (x, w)  y = Add (a, b)  c = MatMul (x, w)  v = Add (c, b) }",
        w=_normal(8, 6),
        b=_normal(6),
    )
    x = _normal(4, 8)
    y, v = _run(model, x=x)
    add_to_bias(_node(model, "MatMul"), _SHIFT)
    again = _run(model, x=x)
    np.testing.assert_allclose(again[0], y + _SHIFT, atol=2e-6)
    np.testing.assert_array_equal(again[1], v)


def test_a_float16_bias_stays_float16():
    model = _model(
        "(float16[4, 8] x) => (float16[4, 6] y) { y = MatMul (x, w) }", opset=20, w=_normal(8, 6, dtype=np.float16)
    )
    x = _normal(4, 8, dtype=np.float16)
    (before,) = _run(model, x=x)
    add_to_bias(_node(model, "MatMul"), _SHIFT)
    (after,) = _run(model, x=x)
    assert after.dtype == np.float16
    # Two roundings to float16 of numbers below 16.
    np.testing.assert_allclose(after.astype(np.float64), before + _SHIFT, atol=0.02)


def test_a_constant_that_one_node_reads_is_changed_under_its_name():
    model = _model("(float[4, 8] x) => (float[4, 6] y) { y = MatMul (x, w) }", w=np.ones((8, 6), np.float32))
    scale_constant(_node(model, "MatMul"), 1, np.arange(6.0), axis=1)
    assert list(model.graph.initializers) == ["w"]
    (y,) = _run(model, x=np.ones((4, 8), np.float32))
    np.testing.assert_array_equal(y, np.tile(8 * np.arange(6.0), (4, 1)))


def test_a_constant_of_two_nodes_is_changed_for_one_of_them():
    model = _model(
        "(float[8] x) => (float[8] y, float[8] z) { y = Mul (x, k)  z = Add (x, k) }", k=np.ones(8, np.float32)
    )
    write_constant(_node(model, "Mul"), 1, np.full(8, 3.0))
    y, z = _run(model, x=np.ones(8, np.float32))
    assert (y[0], z[0]) == (3, 2)
