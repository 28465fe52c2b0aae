"""LayerScale goes into the layer before it."""

from __future__ import annotations

import numpy as np
import pytest

from edgemim.export.passes.fold_layer_scale import fold_layer_scale


def _scales(model):
    """The factors per channel that are left: each Mul by a constant of more than one number."""
    constants = [v for node in model.graph if node.op_type == "Mul" for v in node.inputs if v.const_value is not None]
    return [value for value in constants if value.const_value.size > 1]


def test_weights_and_bias_are_multiplied_per_output(graph, run):
    # Worked: [[1, 2], [3, 4]] with columns times 10 and 100; bias [5, 6] likewise. The image [1, 1] gives
    # 10 (1 + 3 + 5) = 90 and 100 (2 + 4 + 6) = 1200, added to itself 91 and 1201.
    model = graph("""
        g (float[1, 2] x) => (float[1, 2] y)
        <float[2, 2] w = {1, 2, 3, 4}, float[2] b = {5, 6}, float[2] gamma = {10, 100}>
        { product = MatMul (x, w)  linear = Add (product, b)  scaled = Mul (linear, gamma)  y = Add (x, scaled) }
    """)
    folded = fold_layer_scale(model)
    assert [node.op_type for node in folded.graph] == ["MatMul", "Add", "Add"]
    assert folded.graph.initializers["w"].const_value.numpy().tolist() == [[10, 200], [30, 400]]
    assert folded.graph.initializers["b"].const_value.numpy().tolist() == [50, 600]
    assert run(folded, x=np.ones((1, 2), np.float32))[0].tolist() == [[91, 1201]]


@pytest.mark.parametrize(
    "text",
    [
        "g (float[2, 3] x, float[3, 4] w, float[4] c) => (float[2, 4] y) { l = MatMul (x, w)  y = Mul (l, c) }",
        "g (float[2, 3] x, float[4, 3] w, float[4] b, float[1, 4] c) => (float[2, 4] y)"
        "{ l = Gemm <transB = 1> (x, w, b)  y = Mul (c, l) }",
        "g (float[2, 3] x, float[3, 4] w, float[1, 4] b, float[4] c) => (float[2, 4] y)"
        "{ l = Gemm (x, w, b)  y = Mul (l, c) }",
        "g (float[1, 3, 5, 5] x, float[4, 3, 1, 1] w, float[4] b, float[1, 4, 1, 1] c) => (float[1, 4, 5, 5] y)"
        "{ l = Conv (x, w, b)  y = Mul (l, c) }",
        "g (float[1, 4, 5, 5] x, float[4, 1, 3, 3] w, float[4, 1, 1] c) => (float[1, 4, 5, 5] y)"
        "{ l = Conv <group = 4, pads = [1, 1, 1, 1]> (x, w)  y = Mul (l, c) }",
        "g (float[1, 4, 3] x, float[3, 6] w, float[1, 1, 6] b, float[6, 1] c) => (float[1, 6, 2, 2] y)"
        "<int64[4] s = {1, 6, 2, 2}>"
        "{ p = MatMul (x, w)  l = Add (b, p)  t = Transpose <perm = [0, 2, 1]> (l)"
        "  f = Mul (c, t)  y = Reshape (f, s) }",
        "g (float[2, 3] x, float[3, 4] w, float[4] c, float[4] d, float e) => (float[2, 4] y)"
        "{ l = MatMul (x, w)  m = Mul (l, c)  n = Mul (m, d)  y = Mul (e, n) }",
    ],
    ids=["MatMul", "Gemm transposed", "Gemm", "Conv", "depthwise", "other layout", "several factors"],
)
def test_every_form_of_a_layer_takes_the_factor(layers, assert_same, text):
    model = layers(text)
    assert_same(model, fold_layer_scale)
    assert "Mul" not in {node.op_type for node in model.graph}


def test_another_reader_of_the_bias_keeps_it(layers, assert_same):
    # The exporter stores equal constants once: here two biases, and another constant.
    model = layers("""
        g (float[2, 3] x, float[3, 4] w, float[3, 4] v, float[4] b, float[4] c) => (float[2, 4] y)
        { p = MatMul (x, w)  l = Add (p, b)  m = Mul (l, c)
          q = MatMul (x, v)  k = Add (q, b)  n = Mul (k, c)  o = Add (n, b)  y = Add (m, o) }
    """)
    assert_same(model, fold_layer_scale)
    assert "Mul" not in {node.op_type for node in model.graph}


@pytest.mark.parametrize(
    "text",
    [
        "g (float[2, 3] x, float[3, 4] w, float[4] c) => (float[2, 4] y)"
        "{ l = MatMul (x, w)  m = Mul (l, c)  y = Add (m, l) }",
        "g (float[2, 3] x, float[3, 4] w, float[4] c) => (float[2, 4] y, float[2, 4] l)"
        "{ l = MatMul (x, w)  y = Mul (l, c) }",
        "g (float[2, 3] x, float[3, 3] w, float[3] c) => (float[2, 3] y)"
        "{ l = MatMul (x, w)  m = Mul (l, c)  y = MatMul (m, w) }",
        "g (float[2, 3] x, float[3, 4] w, float[2, 4] c) => (float[2, 4] y) { l = MatMul (x, w)  y = Mul (l, c) }",
        "g (float[2, 3] x, float[3, 4] w, float[5, 1, 4] c) => (float[5, 2, 4] y){ l = MatMul (x, w)  y = Mul (l, c) }",
        "g (float[2, 3] x, float[3, 4] w) => (float[2, 4] y) { l = MatMul (x, w)  c = Sigmoid (l)  y = Mul (l, c) }",
        "g (float[2, 3] x, float[3, 4] w, float[4] c) => (float[2, 4] y)"
        "{ l = MatMul (x, w)  m = Relu (l)  y = Mul (m, c) }",
        "g (float[2, 3] x, float[3, 4] w, float[2, 4] b, float[4] c) => (float[2, 4] y)"
        "{ p = MatMul (x, w)  l = Add (p, b)  y = Mul (l, c) }",
        "g (float[2, 3] x, float[3, 4] w, float[4] b, float[4] c) => (float[2, 4] y)"
        "{ l = Gemm <beta = 2.0> (x, w, b)  y = Mul (l, c) }",
    ],
    ids=[
        "read twice",
        "is an output",
        "weights shared",
        "differs by position",
        "makes it larger",
        "computed",
        "not linear",
        "no bias but positions",
        "bias in other units",
    ],
)
def test_what_is_not_certain_stays(layers, assert_same, text):
    model = layers(text)
    before = [node.op_type for node in model.graph]
    assert_same(model, fold_layer_scale)
    assert [node.op_type for node in model.graph] == before


@pytest.mark.parametrize(
    "name", ["vit", *(pytest.param(n, marks=pytest.mark.slow) for n in ("beit", "cait", "convnext", "deit3"))]
)
def test_no_layer_scale_is_left_in_a_backbone(backbone, assert_same, name):
    model = backbone(name)
    assert _scales(model)
    assert_same(model, fold_layer_scale)
    assert not _scales(model)
