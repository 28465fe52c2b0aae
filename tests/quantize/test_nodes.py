"""Reading graphs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from edgemim.quantize import nodes


def _graph(text, **weights):
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    for name, array in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
    for node in proto.graph.node:
        node.name = node.output[0]
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True)).graph
    return {node.name: node for node in graph}


@pytest.mark.parametrize(
    ("text", "never"),
    [
        ("y = Relu (x)", True),
        ("y = Sigmoid (x)", True),
        ("y = Softmax (x)", True),
        ("y = Clip (x, zero, six)", True),
        ("y = Clip (x, minus, six)", False),
        ("y = Clip (x)", False),
        ("y = Identity (x)", False),
        ("y = HardSwish (x)", False),
        ("a = Relu (x)  y = Transpose (a)", True),
        ("a = Relu (x)  y = MaxPool <kernel_shape = [1, 1]> (a)", True),
        ("a = Relu (x)  y = Neg (a)", False),
        ("a = Relu (x)  y = Concat <axis = 0> (a, a)", True),
        ("a = Relu (x)  y = Concat <axis = 0> (a, x)", False),
        ("a = Relu (x)  b = Sigmoid (x)  y = Mul (a, b)", True),
        ("b = Sigmoid (x)  y = Mul (x, b)", False),
        ("a = Relu (x)  y = Mul (a, six)", True),
        ("a = Relu (x)  y = Mul (minus, a)", False),
    ],
)
def test_never_negative_is_said_of_what_no_input_can_make_negative(text, never):
    found = _graph(
        f"(float[2, 2, 2, 2] x) => (float[n, 2, 2, 2] z) {{ {text}  z = Floor (y) }}", zero=0, six=6, minus=-1
    )
    assert nodes.never_negative(found["y"].outputs[0]) is never


def test_a_bias_of_its_own_belongs_to_the_layer_and_another_sum_does_not():
    found = _graph(
        """(float[2, 4] x) => (float[2, 4] z) {
            a = MatMul (x, w)  b = Add (bias, a)
            c = MatMul (b, w)  d = Add (c, x)
            e = MatMul (d, w)  f = Add (e, table)
            h = Gemm (f, w, bias)  z = Floor (h) }""",
        w=np.eye(4),
        bias=np.ones(4),
        table=np.ones((2, 4)),
    )
    outputs = {name: nodes.biased_output(found[name]).name for name in "aceh"}
    assert outputs == {"a": "b", "c": "c", "e": "e", "h": "h"}


def test_a_bias_that_someone_else_bypasses_is_none():
    found = _graph(
        "(float[2, 4] x) => (float[2, 4] b, float[2, 4] c) { a = MatMul (x, w)  b = Add (a, bias)  c = Relu (a) }",
        w=np.eye(4),
        bias=np.ones(4),
    )
    assert nodes.biased_output(found["a"]).name == "a"


def test_tracing_up_passes_layout_and_one_factor_and_stops_where_the_graph_begins():
    found = _graph(
        """(float[2, 4] x) => (float[4, 2] e) {
            a = Neg (x)  b = Transpose (a)  c = Mul (half, b)  d = Mul (c, factors)  e = Floor (d) }""",
        half=0.5,
        factors=np.ones(2),
    )
    assert nodes.trace_up(found["c"].outputs[0], nodes.is_scaling) is found["a"]
    assert nodes.trace_up(found["d"].outputs[0], nodes.is_scaling) is found["d"]
    assert nodes.trace_up(found["d"].outputs[0], nodes.carries) is found["a"]
    assert nodes.trace_up(found["a"].inputs[0], nodes.carries) is None


def test_only_a_constant_second_matrix_makes_a_linear_layer():
    found = _graph(
        """(float[1, 4, 4] x) => (float[1, 4, 4] e) {
            a = MatMul (x, w)  b = MatMul (w, a)  c = MatMul (a, b)  d = MatMul (c, stack)  e = Add (d, w) }""",
        w=np.eye(4),
        stack=np.ones((1, 4, 4)),
    )
    assert [name for name, node in found.items() if nodes.is_linear(node)] == ["a"]
    assert [name for name, node in found.items() if nodes.is_product(node)] == ["c"]
