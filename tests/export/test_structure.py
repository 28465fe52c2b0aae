"""Graphs that a device would fail on are refused by name."""

from __future__ import annotations

import pytest

from edgemim.errors import EdgemimError
from edgemim.export.structure import check_structure

_NORM = """
    g (float[1, 4] x) => (float[1, 4] y) <float[4] w = {1.0, 1.0, 1.0, 1.0}>
    { y = LayerNormalization <axis = -1> (x, w) }
"""


@pytest.fixture
def named(graph):
    def build(text, opset=17, module="norm"):
        model = graph(text, opset=opset)
        for node in model.graph:
            node.metadata_props["edgemim.module"] = module
        return model

    return build


def test_a_graph_that_keeps_every_rule_passes(named):
    check_structure(named(_NORM), {"norm": 1})


def test_another_opset_is_refused(named):
    with pytest.raises(EdgemimError, match=r"must use ONNX opset 17 alone; found \{'': 18\}"):
        check_structure(named(_NORM, opset=18), {"norm": 1})


def test_a_node_without_a_module_is_refused(graph):
    with pytest.raises(EdgemimError, match="op 'LayerNormalization' of node 'node_y' cannot be traced"):
        check_structure(graph(_NORM, opset=17), {"norm": 1})


@pytest.mark.parametrize(("expected", "found"), [({"norm": 2}, 1), ({"norm": 1, "blocks.0.norm1": 1}, 0)])
def test_a_layer_norm_that_is_not_one_node_is_refused(named, expected, found):
    with pytest.raises(EdgemimError, match=f"became {found} LayerNormalization nodes"):
        check_structure(named(_NORM), expected)


def test_control_flow_is_refused_with_the_module(named):
    text = """
        g (bool c, float[2] x) => (float[2] y)
        { y = If (c) <then_branch = a () => (float[2] p) { p = Abs (x) },
                      else_branch = b () => (float[2] q) { q = Neg (x) }> }
    """
    with pytest.raises(EdgemimError, match="op 'If' of module 'attn' is control flow"):
        check_structure(named(text, module="attn"), {})


def test_a_shape_that_is_not_fixed_is_refused(named):
    text = "g (float[N, 4] x) => (float[N, 4] y) { y = Abs (x) }"
    with pytest.raises(EdgemimError, match=r"input 'x' has the shape .*N.* not fixed"):
        check_structure(named(text), {})


_HALF = """
    g (float[1, 4] x) => (float[1, 4] y) <float16[4] w = {15360, 15360, 15360, 15360}>
    { h = Cast <to = 10> (x)  n = LayerNormalization <axis = -1> (h, w)  f = Cast <to = 1> (n)  y = Exp (f) }
"""


def test_a_half_graph_with_its_islands_passes(named):
    check_structure(named(_HALF, opset=20), {"norm": 1}, opset=20, islands=["node_y"])


@pytest.mark.parametrize(
    ("islands", "complaint"),
    [
        ([], "op 'Exp' of module 'norm' must compute in float16, but 'f' is float$"),
        (["node_y", "node_n"], "op 'LayerNormalization' of module 'norm' must compute in float, but 'h' is float16"),
    ],
)
def test_a_float_where_half_is_due_and_the_reverse_are_refused(named, islands, complaint):
    with pytest.raises(EdgemimError, match=complaint.replace("$", "; report")):
        check_structure(named(_HALF, opset=20), {"norm": 1}, opset=20, islands=islands)


def test_half_in_a_float_graph_is_refused(named):
    with pytest.raises(EdgemimError, match=r"op '.*' of module 'norm' must compute in float, but '.' is float16"):
        check_structure(named(_HALF, opset=20), {"norm": 1}, opset=20)


@pytest.mark.parametrize(("x", "y", "end"), [("float16", "float", "x"), ("float", "float16", "y")])
def test_a_half_end_is_refused(named, x, y, end):
    text = f"g ({x}[1, 4] x) => ({y}[1, 4] y) {{ y = Cast <to = {1 if y == 'float' else 10}> (x) }}"
    with pytest.raises(EdgemimError, match=f"the graph's {end!r} is float16; it must be float"):
        check_structure(named(text, opset=20), {}, opset=20, islands=[])


def test_sizes_that_are_float_by_definition_may_be_so_in_a_half_graph(named):
    text = """
        g (float[1, 1, 2, 2] x) => (float[1, 1, 4, 4] y) <float[4] scales = {1.0, 1.0, 2.0, 2.0}>
        { h = Cast <to = 10> (x)  r = Resize <mode = "nearest"> (h, , scales)  y = Cast <to = 1> (r) }
    """
    check_structure(named(text, opset=20), {}, opset=20, islands=[])
