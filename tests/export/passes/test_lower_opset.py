"""Opset 17 by hand: each rewrite on one node, each refusal by name."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgemim.errors import EdgemimError
from edgemim.export.passes.lower_opset import lower_opset

_X = np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)


def _lower_and_compare(model, run, **inputs):
    inputs = inputs or {"x": _X}
    before = run(model, **inputs)
    lowered = lower_opset(model)
    assert dict(lowered.opset_imports) == {"": 17}
    assert lowered.ir_version == 8
    onnx.checker.check_model(ir.to_proto(lowered), full_check=True)
    for old, new in zip(before, run(lowered, **inputs), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6)
    return lowered


@pytest.mark.parametrize("op", ["L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"])
@pytest.mark.parametrize("axes", ["{1}", "{-1}"])
def test_the_axes_of_a_reduction_become_an_attribute(graph, run, op, axes):
    model = graph(f"""
        g (float[2, 5, 4] x) => (float[A, B] y) <int64[1] axes = {axes}>
        {{ y = Reduce{op} <keepdims = 0, noop_with_empty_axes = 0> (x, axes) }}
    """)
    (node,) = _lower_and_compare(model, run).graph
    assert list(node.attributes.get_ints("axes")) == [int(axes.strip("{}"))]
    assert len(node.inputs) == 1
    assert "noop_with_empty_axes" not in node.attributes


def test_a_reduction_over_everything_keeps_no_axes(graph, run):
    model = graph("g (float[2, 5, 4] x) => (float y) { y = ReduceMean <keepdims = 0> (x) }")
    (node,) = _lower_and_compare(model, run).graph
    assert "axes" not in node.attributes


def test_a_reduction_over_nothing_becomes_the_identity(graph, run):
    model = graph("g (float[2, 5, 4] x) => (float[2, 5, 4] y) { y = ReduceMax <noop_with_empty_axes = 1> (x) }")
    (node,) = _lower_and_compare(model, run).graph
    assert node.op_type == "Identity"


def test_reduce_sum_has_had_its_axes_as_an_input_since_13(graph, run):
    model = graph("""
        g (float[2, 5, 4] x) => (float[2, 4] y) <int64[1] axes = {1}>
        { y = ReduceSum <keepdims = 0, noop_with_empty_axes = 0> (x, axes) }
    """)
    (node,) = _lower_and_compare(model, run).graph
    assert len(node.inputs) == 2


def test_an_even_split_needs_no_sizes(graph, run):
    model = graph("""
        g (float[2, 5, 4] x) => (float[2, 5, 2] a, float[2, 5, 2] b)
        { a, b = Split <axis = -1, num_outputs = 2> (x) }
    """)
    (node,) = _lower_and_compare(model, run).graph
    assert len(node.inputs) == 1
    assert set(node.attributes) == {"axis"}


def test_an_uneven_split_gets_its_sizes(graph, run):
    # Opset 18 cuts 5 into 2, 2 and 1.
    model = graph("""
        g (float[2, 5, 4] x) => (float[2, 2, 4] a, float[2, 2, 4] b, float[2, 1, 4] c)
        { a, b, c = Split <axis = 1, num_outputs = 3> (x) }
    """)
    (node,) = _lower_and_compare(model, run).graph
    assert node.inputs[1].const_value.numpy().tolist() == [2, 2, 1]


def test_padding_of_some_axes_is_padding_of_all_with_zeros(graph, run):
    model = graph("""
        g (float[2, 5, 4] x) => (float[A, B, C] y)
        <int64[4] pads = {1, 2, 3, 0}, float value = {0.5}, int64[2] axes = {-1, 1}>
        { y = Pad (x, pads, value, axes) }
    """)
    (node,) = _lower_and_compare(model, run).graph
    # Axis -1 gets 1 before and 3 after, axis 1 gets 2 before and none after.
    assert node.inputs[1].const_value.numpy().tolist() == [0, 2, 1, 0, 0, 3]
    assert len(node.inputs) == 3


@pytest.mark.parametrize(
    ("text", "attribute"),
    [
        ("g (float[1, 2, 4, 4] x) => (float[1, 2, 2, 2] y)"
         "{ y = AveragePool <kernel_shape = [3, 3], dilations = [1, 1]> (x) }", "dilations"),
        ("g (float[1, 2, 4, 4] x) => (int64[1, 2, 4, 4] y)"
         "{ y = Cast <to = 7, saturate = 1> (x) }", "saturate"),
        ("g (float[1, 2, 4, 4] x) => (float[1, 2, 8, 8] y) <float[4] scales = {1.0, 1.0, 2.0, 2.0}>"
         '{ y = Resize <mode = "linear", antialias = 0> (x, , scales) }', "antialias"),
    ],
    ids=["AveragePool", "Cast", "Resize"],
)  # fmt: skip
def test_a_new_attribute_that_says_what_17_does_anyway_is_dropped(graph, run, text, attribute):
    model = graph(text)
    assert attribute in model.graph[0].attributes
    _lower_and_compare(model, run, x=np.random.default_rng(0).random((1, 2, 4, 4)).astype(np.float32))
    assert attribute not in model.graph[0].attributes


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("g (float[2] x) => (float[2] y) { y = Mish (x) }", "op 'Mish' of module 'blocks.0.act' came after"),
        ("g (float[2] x) => (float[2] y) { y = Gelu (x) }", "op 'Gelu' of module 'blocks.0.act' came after"),
        ("g (float[1, 2, 4, 4] x) => (float[1, 2, 1, 1] y)"
         "{ y = AveragePool <kernel_shape = [2, 2], dilations = [2, 2]> (x) }", r"dilations=.*\(2, 2\)"),
        ("g (float[4] x) => (float[6] y) <int64[2] pads = {1, 1}>"
         '{ y = Pad <mode = "wrap"> (x, pads) }', "mode='wrap', new after ONNX opset 17"),
        ("g (float[4] x, int64[2] pads) => (float[A] y) <int64[1] axes = {0}>"
         "{ y = Pad (x, pads, , axes) }", "computes its pads from the image"),
        ("g (float[4] x, int64[1] axes) => (float[A] y) { y = ReduceMean (x, axes) }", "computes its axes"),
    ],
    ids=["Mish", "Gelu", "dilated pool", "wrap", "dynamic pads", "dynamic axes"],
)  # fmt: skip
def test_what_17_cannot_say_is_refused_with_op_and_module(graph, text, complaint):
    model = graph(text)
    model.graph[0].metadata_props["edgemim.module"] = "blocks.0.act"
    with pytest.raises(EdgemimError, match=complaint):
        lower_opset(model)


def test_an_op_of_another_domain_is_refused(graph):
    model = graph("g (float[2] x) => (float[2] y) { y = Abs (x) }")
    model.graph[0].domain = "com.microsoft"
    with pytest.raises(EdgemimError, match="not a standard ONNX op"):
        lower_opset(model)


def test_lowering_twice_changes_nothing(graph):
    model = lower_opset(
        graph("g (float[2, 3] x) => (float[2] y) <int64[1] a = {1}> { y = ReduceMax <keepdims = 0> (x, a) }")
    )
    once = ir.to_proto(model).SerializeToString(deterministic=True)
    assert ir.to_proto(lower_opset(model)).SerializeToString(deterministic=True) == once
