"""Opset 20 by hand: each rewrite on one node, each refusal by name."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgemim.errors import EdgemimError
from edgemim.export.passes.raise_opset import raise_opset

_X = np.random.default_rng(0).standard_normal((2, 6, 4)).astype(np.float32)


def _raise_and_compare(model, run, **inputs):
    inputs = inputs or {"x": _X}
    before = run(model, **inputs)
    raised = raise_opset(model)
    assert dict(raised.opset_imports) == {"": 20}
    assert raised.ir_version == 9
    onnx.checker.check_model(ir.to_proto(raised), full_check=True)
    for old, new in zip(before, run(raised, **inputs), strict=True):
        np.testing.assert_array_equal(new, old)
    return raised


@pytest.mark.parametrize("op", ["L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"])
def test_the_axes_of_a_reduction_become_an_input(graph, run, op):
    model = graph(
        f"g (float[2, 6, 4] x) => (float[A, B] y) {{ y = Reduce{op} <axes = [-2], keepdims = 0> (x) }}", opset=17
    )
    (node,) = _raise_and_compare(model, run).graph
    assert node.inputs[1].const_value.numpy().tolist() == [-2]
    assert "axes" not in node.attributes


def test_a_reduction_over_everything_gets_no_axes(graph, run):
    model = graph("g (float[2, 6, 4] x) => (float y) { y = ReduceMean <keepdims = 0> (x) }", opset=17)
    (node,) = _raise_and_compare(model, run).graph
    assert len(node.inputs) == 1


def test_an_even_split_says_how_many_parts_it_makes(graph, run):
    model = graph(
        "g (float[2, 6, 4] x) => (float[2, 3, 4] a, float[2, 3, 4] b) { a, b = Split <axis = 1> (x) }", opset=17
    )
    (node,) = _raise_and_compare(model, run).graph
    assert node.attributes.get_int("num_outputs") == 2


def test_a_split_by_sizes_stays(graph, run):
    model = graph(
        """g (float[2, 6, 4] x) => (float[2, 1, 4] a, float[2, 5, 4] b) <int64[2] sizes = {1, 5}>
        { a, b = Split <axis = 1> (x, sizes) }""",
        opset=17,
    )
    (node,) = _raise_and_compare(model, run).graph
    assert set(node.attributes) == {"axis"}


@pytest.mark.parametrize(("old", "new"), [("bilinear", "linear"), ("bicubic", "cubic"), ("nearest", "nearest")])
def test_the_modes_of_grid_sample_have_new_names(graph, run, old, new):
    model = graph(
        f"""g (float[1, 1, 4, 4] x, float[1, 3, 3, 2] grid) => (float[1, 1, 3, 3] y)
        {{ y = GridSample <mode = "{old}"> (x, grid) }}""",
        opset=18,
    )
    rng = np.random.default_rng(0)
    images, grid = (rng.uniform(-1, 1, shape).astype(np.float32) for shape in ((1, 1, 4, 4), (1, 3, 3, 2)))
    (node,) = _raise_and_compare(model, run, x=images, grid=grid).graph
    assert node.attributes.get_string("mode") == new


@pytest.mark.parametrize(("axis", "expected"), [("<axis = 2>", 2), ("", 1)])
def test_the_axis_of_a_fourier_transform_becomes_an_input(graph, run, axis, expected):
    model = graph(f"g (float[2, 6, 4, 1] x) => (float[2, 6, 4, 2] y) {{ y = DFT {axis} (x) }}", opset=17)
    (node,) = _raise_and_compare(model, run, x=_X[..., None]).graph
    assert node.inputs[2].const_value.numpy().item() == expected


def test_what_opset_20_already_says_stays_as_it_is(graph):
    text = """
        g (float[2, 6, 4] x) => (float[2, 4] z) <int64[1] axes = {1}>
        { y = Gelu <approximate = "tanh"> (x)  z = ReduceMean <keepdims = 0> (y, axes) }
    """
    raised = raise_opset(graph(text, opset=20))
    assert [node.op_type for node in raised.graph] == ["Gelu", "ReduceMean"]
    assert raised.graph[0].attributes.get_string("approximate") == "tanh"


def test_an_op_of_another_domain_is_refused(graph):
    model = graph("g (float[2] x) => (float[2] y) { y = Abs (x) }")
    model.graph[0].domain = "com.microsoft"
    with pytest.raises(EdgemimError, match="not a standard ONNX op"):
        raise_opset(model)


def test_what_opset_20_lacks_is_refused_with_op_and_module(graph):
    model = graph("g (float[2] x) => (float[2] y) { y = Abs (x) }")
    model.graph[0].metadata_props["edgemim.module"] = "blocks.0.act"
    model.graph[0].op_type = "Swish"
    with pytest.raises(EdgemimError, match=r"op 'Swish' of module 'blocks\.0\.act' is not in ONNX opset 20"):
        raise_opset(model)


def test_an_attribute_of_a_later_opset_is_refused(graph):
    model = graph("g (float[2] x) => (float[2] y) { y = Abs (x) }")
    model.graph[0].attributes["sharp"] = ir.AttrInt64("sharp", 1)
    with pytest.raises(EdgemimError, match="has sharp, unknown in ONNX opset 20"):
        raise_opset(model)


@pytest.mark.parametrize("opset", [16, 21])
def test_a_graph_of_another_age_is_refused(graph, opset):
    model = graph("g (float[2] x) => (float[2] y) { y = Abs (x) }", opset=opset)
    with pytest.raises(EdgemimError, match=f"uses ONNX opset {opset}; an fp16 flavour is made from 17 to 20"):
        raise_opset(model)
