"""float16 by hand: what is rounded, where the casts stand, what stays in float32 and why."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgemim.export.passes.float32_islands import find_islands
from edgemim.export.passes.remove_unused import remove_unused
from edgemim.export.passes.to_half import to_half

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def _islands(model, largest=None):
    return {node.outputs[0].name: reason for node, reason in find_islands(model, largest or {}).items()}


def _convert(model, *islands):
    """The graph with the nodes that make these values in float32, checked by ONNX itself."""
    converted = remove_unused(to_half(model, [node for node in model.graph if node.outputs[0].name in islands]))
    onnx.checker.check_model(ir.to_proto(converted), full_check=True)
    return converted


def _types(model):
    return {value.name: value.dtype for node in model.graph for value in node.outputs}


def _casts(model):
    return {
        node.outputs[0].name: node.metadata_props["edgemim.module"] for node in model.graph if node.op_type == "Cast"
    }


def _named(model):
    """Every node belongs to a module named after what it makes."""
    for node in model.graph:
        node.metadata_props["edgemim.module"] = f"module_{node.outputs[0].name}"
    return model


def test_everything_inside_is_half_and_the_ends_stay_float(graph, run):
    model = graph("""
        g (float[2] x) => (float[2] y) <float[2] w = {0.1, 3.0}> { a = Mul (x, w)  y = Relu (a) }
    """)
    converted = _convert(_named(model))
    assert [node.op_type for node in converted.graph] == ["Cast", "Mul", "Relu", "Cast"]
    assert _types(converted) == {"x_fp16": HALF, "a": HALF, "y_fp16": HALF, "y": FLOAT}
    assert [(value.name, value.dtype) for value in (*converted.graph.inputs, *converted.graph.outputs)] == [
        ("x", FLOAT),
        ("y", FLOAT),
    ]
    x = np.float32([1, 2])
    np.testing.assert_array_equal(run(converted, x=x)[0], [np.float16(0.1), 6])


def test_weights_are_rounded_to_the_nearest_half_from_float(graph):
    # 1 + 2^-11 lies between 1 and 1 + 2^-10 and goes to the even one; a little more goes up.
    model = graph("g (float[3] x) => (float[3] y) <float[3] w = {1.00048828125, 1.00048840, -0.1}> { y = Mul (x, w) }")
    converted = _convert(_named(model))
    (weights,) = converted.graph.initializers.values()
    assert weights.const_value.numpy().dtype == np.float16
    assert weights.const_value.numpy().tolist() == [1.0, 1.0009765625, float(np.float16(-0.1))]
    assert weights.name == "w"


def test_an_island_has_one_cast_per_value_on_its_borders_and_none_inside(graph):
    # a is read twice by the island, b is made and read in it, d is read twice outside.
    model = graph("""
        g (float[2] x) => (float[2] y)
        { a = Relu (x)  b = Mul (a, a)  c = Add (b, a)  d = Sqrt (c)  e = Relu (d)  y = Add (e, d) }
    """)
    converted = _convert(_named(model), "b", "c", "d")
    types = _types(converted)
    assert {name: types[name] for name in "abcde"} == {"a": HALF, "b": FLOAT, "c": FLOAT, "d": FLOAT, "e": HALF}
    # A cast belongs to the module on its float32 side; at the ends of the graph, to the node it feeds or follows.
    assert _casts(converted) == {
        "x_fp16": "module_a",
        "a_fp32": "module_b",
        "d_fp16": "module_d",
        "y": "module_y",
    }


def test_a_constant_that_both_types_read_is_kept_in_both(graph, run):
    model = graph("""
        g (float[1] x) => (float[1] y) <float[1] w = {0.1}>
        { a = Mul (x, w)  b = Exp (a)  c = Mul (b, w)  y = Relu (c) }
    """)
    converted = _convert(_named(model), "b", "c")
    assert {name: value.dtype for name, value in converted.graph.initializers.items()} == {"w": FLOAT, "w_fp16": HALF}
    half = np.float32(np.float16(0.1))
    expected = np.float16(np.exp(np.float32(np.float16(half * 2))) * np.float32(0.1))
    np.testing.assert_allclose(run(converted, x=np.float32([2]))[0], [expected], rtol=1e-3)


def test_an_output_that_is_also_read_inside_and_one_that_an_island_makes(graph):
    model = graph("g (float[2] x) => (float[2] y, float[2] z) { y = Relu (x)  z = Exp (y) }")
    converted = _convert(_named(model), "z")
    assert [value.name for value in converted.graph.outputs] == ["y", "z"]
    assert all(value.dtype == FLOAT for value in converted.graph.outputs)
    # z reads the value itself, which is as exact as the copy that leaves the graph.
    assert [node.op_type for node in converted.graph] == ["Cast", "Relu", "Cast", "Exp", "Cast"]


def test_a_layer_norm_stays_one_node_with_scale_and_bias_of_its_own_type(graph):
    text = """
        g (float[1, 2] x) => (float[1, 2] y) <float[2] w = {1.0, 2.0}, float[2] b = {0.5, 0.1}>
        { a = Relu (x)  n = LayerNormalization <axis = -1, epsilon = 1e-12> (a, w, b)  y = Relu (n) }
    """
    for islands, dtype in (((), HALF), (("n",), FLOAT)):
        converted = _convert(_named(graph(text)), *islands)
        (norm,) = (node for node in converted.graph if node.op_type == "LayerNormalization")
        assert {value.dtype for value in (*norm.inputs, *norm.outputs)} == {dtype}
        assert norm.attributes.get_float("epsilon") == pytest.approx(1e-12)


def test_scales_of_resize_and_shapes_are_no_weights(graph, run):
    model = graph("""
        g (float[1, 1, 2, 2] x) => (float[1, 16] y) <float[4] scales = {1.0, 1.0, 2.0, 2.0}, int64[2] shape = {1, 16}>
        { a = Resize <mode = "nearest"> (x, , scales)  y = Reshape (a, shape) }
    """)
    converted = _convert(_named(model))
    assert converted.graph.initializers["scales"].dtype == FLOAT
    assert _types(converted)["a"] == HALF
    assert run(converted, x=np.ones((1, 1, 2, 2), np.float32))[0].shape == (1, 16)


def test_a_cast_to_float_becomes_one_to_half(graph, run):
    # A uint8 input is cast straight to half.
    model = graph("g (uint8[2] x) => (float[2] y) { a = Cast <to = 1> (x)  y = Relu (a) }")
    converted = _convert(_named(model))
    assert [node.op_type for node in converted.graph] == ["Cast", "Relu", "Cast"]
    assert converted.graph[0].attributes.get_int("to") == HALF
    np.testing.assert_array_equal(run(converted, x=np.uint8([3, 255]))[0], [3, 255])


@pytest.mark.parametrize(
    "call",
    ["Pow (x, two)", "Exp (x)", "ReduceSum (x)", "ReduceL2 (x)", "ReduceSumSquare (x)", "ReduceMean (x)", "Mul (x, x)"],
)
def test_squares_sums_and_exponentials_are_islands(graph, call):
    model = graph(f"g (float[2] x) => (float[A] y) <float two = {{2.0}}> {{ a = {call}  y = Relu (a) }}")
    assert _islands(model)["a"] == "op"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Beyond 65504, although the product would be small.
        ("<float[2] w = {1.0, 70000.0}> { y = Mul (x, w) }", "constant"),
        ("<float[2] w = {1.0, 65504.0}> { y = Mul (x, w) }", None),
        # The largest magnitude decides: 2^-14 is the smallest normal number of float16.
        ("<float[2] w = {1e-9, 6.104e-5}> { y = Mul (x, w) }", None),
        ("<float[2] w = {1e-9, 6.1e-5}> { y = Mul (x, w) }", "constant"),
        ("<float[2] w = {0.0, 0.0}> { y = Mul (x, w) }", None),
        # What keeps a divisor from 0 must not become 0; a bias may.
        ("<float eps = {1e-12}> { y = Add (x, eps) }", "constant"),
        ("<float eps = {1e-12}> { y = Clip (x, eps) }", "constant"),
        ("<float[2] b = {1e-12, 1e-9}> { y = Add (x, b) }", None),
        ("<float[2] b = {1e-12, -1e38}> { y = Add (x, b) }", "constant"),
        # Every divisor counts, not the largest of them.
        ("<float[2] w = {1e-6, 1.0}> { y = Div (x, w) }", "constant"),
        ("<float[2] w = {1e-6, 1.0}> { y = Div (w, x) }", None),
    ],
)
def test_a_constant_that_half_cannot_hold_makes_an_island(graph, text, expected):
    model = graph(f"g (float[2] x) => (float[2] y) {text}")
    assert _islands(model).get("y") == expected


def test_a_bias_may_be_tiny_where_a_weight_may_not(graph):
    text = """
        g (float[1, 2] x) => (float[1, 2] y) <float[2, 2] w = {{{w}, 0.0, 0.0, 0.0}}, float[2] b = {{{b}, 0.0}}>
        {{ y = Gemm (x, w, b) }}
    """
    assert _islands(graph(text.format(w="0.5", b="1e-9"))) == {}
    assert _islands(graph(text.format(w="1e-9", b="0.5"))) == {"y": "constant"}


def test_what_came_near_the_largest_half_is_an_island_with_all_that_read_it(graph):
    model = graph("""
        g (float[1, 2] x) => (float[1, 2] y) <float[2] w = {1.0, 1.0}>
        { a = Relu (x)  b = Add (a, x)  n = LayerNormalization (b, w)  c = Relu (b)  y = Softmax (n) }
    """)
    small = dict.fromkeys(("x", "a", "n", "c", "y"), 1.0)
    assert _islands(model, small | {"b": 8188.0}) == {}
    assert _islands(model, small | {"b": 8189.0}) == {"b": "value", "n": "value", "c": "value"}
    assert _islands(model, small | {"b": float("nan")}) == {"b": "value", "n": "value", "c": "value"}


def test_an_op_without_a_half_form_is_an_island(graph):
    # ONNX defines Celu for float32 alone.
    assert _islands(graph("g (float[2] x) => (float[2] y) { y = Celu (x) }")) == {"y": "type"}


def test_an_rms_norm_in_pieces_is_one_island(graph, run):
    model = graph("""
        g (float[1, 4] x) => (float[1, 4] z)
        <float two = {2.0}, float eps = {1e-6}, float[4] gamma = {1.0, 2.0, 3.0, 4.0}, int64[1] axes = {1}>
        { s = Pow (x, two)  m = ReduceMean (s, axes)  e = Add (m, eps)  q = Sqrt (e)  r = Reciprocal (q)
          n = Mul (x, r)  y = Mul (n, gamma)  o = Sigmoid (x)  z = Add (y, o) }
    """)
    islands = _islands(model)
    # What follows the norm is half: its other operand is.
    assert list(islands) == ["s", "m", "e", "q", "r", "n", "y"]
    assert islands["n"] == "between"
    # 1000^2 is no half; ONNX Runtime also fuses such a norm, and fails to load some that are half.
    x = np.float32([[1000, -500, 250, 0]])
    expected = x / np.sqrt((x**2).mean()) * [1, 2, 3, 4] + 1 / (1 + np.exp(-x.astype(np.float64)))
    np.testing.assert_allclose(run(_convert(_named(model), *islands), x=x)[0], expected, rtol=2**-9)


def test_a_division_by_something_in_float_is_in_float(graph):
    # As in linear attention: d + 1e-15 is 0 in half where d is.
    model = graph("""
        g (float[2] x, float[2] d) => (float[2] y) <float eps = {1e-15}>
        { e = Add (d, eps)  a = Sigmoid (x)  q = Div (a, e)  y = Sigmoid (q) }
    """)
    assert _islands(model) == {"e": "constant", "q": "between", "y": "between"}


def test_numbers_are_rounded_before_they_are_moved_unless_float_comes_after(graph):
    model = graph("""
        g (float[1, 2] x) => (float[2, 1] y, float[2] z) <int64[1] shape = {2}>
        { a = Exp (x)  b = Transpose (a)  y = Softmax (b)  c = Reshape (a, shape)  z = Exp (c) }
    """)
    assert _islands(model) == {"a": "op", "c": "between", "z": "op"}


def test_an_op_that_costs_stays_half_behind_an_island(graph):
    model = graph("""
        g (float[1, 2, 2] x) => (float[1, 2] y) <float[2, 2] w = {1.0, 2.0, 3.0, 4.0}, int64[1] axes = {1}>
        { p = ReduceMean <keepdims = 0> (x, axes)  y = MatMul (p, w) }
    """)
    assert _islands(model) == {"p": "op"}


def test_integers_and_booleans_are_left_alone(graph):
    model = graph("""
        g (int64[2] i, float[2] x) => (float[2] y, int64[2] j)
        <int64[2] k = {100000, 2}, float zero = {0.0}> { j = Mul (i, i)  m = Greater (x, zero)  y = Where (m, x, zero) }
    """)
    converted = _convert(_named(model))
    assert _types(converted)["j"] == ir.DataType.INT64
    assert _types(converted)["m"] == ir.DataType.BOOL
    assert "j" not in _islands(model)
