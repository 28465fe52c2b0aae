"""The affine of a LayerNorm goes into the linear layers that read it."""

from __future__ import annotations

import numpy as np
import pytest

from edgemim.export.passes.fold_layer_norm import fold_layer_norm


def _affines(model):
    """Scale and bias of every LayerNormalization."""
    return [
        [value.const_value.numpy() for value in node.inputs[1:]]
        for node in model.graph
        if node.op_type == "LayerNormalization"
    ]


def _is_plain(affine):
    scale, *bias = affine
    return bool((scale == 1).all() and not any(b.any() for b in bias))


def test_gamma_scales_rows_and_beta_moves_the_bias(graph, run):
    # Worked: x = [1, -1] is normalised already. gamma [2, 3] and beta [1, 1] make it [3, -2]; W = [[1], [2]] and
    # bias 5 give 3 - 4 + 5 = 4. Folded: rows 1*2 and 2*3, bias 5 + 1*1 + 1*2 = 8; 2 - 6 + 8 = 4.
    model = graph("""
        g (float[1, 2] x) => (float[1, 1] y)
        <float[2] gamma = {2, 3}, float[2] beta = {1, 1}, float[2, 1] w = {1, 2}, float[1] b = {5}>
        { n = LayerNormalization <epsilon = 0.0> (x, gamma, beta)  p = MatMul (n, w)  y = Add (p, b) }
    """)
    folded = fold_layer_norm(model)
    values = {name: value.const_value.numpy().ravel().tolist() for name, value in folded.graph.initializers.items()}
    assert values == {"gamma": [1, 1], "beta": [0, 0], "w": [2, 6], "b": [8]}
    assert [node.op_type for node in folded.graph] == ["LayerNormalization", "MatMul", "Add"]
    np.testing.assert_allclose(run(folded, x=np.float32([[1, -1]]))[0], [[4]], rtol=1e-6)


_NORM = "n = LayerNormalization (x, gamma, beta)"
_HEAD = "g (float[1, 4, 3] x, float[3] gamma, float[3] beta, float[3, 6] w, float[6] b"


@pytest.mark.parametrize(
    "text",
    [
        f"{_HEAD}, float[3, 6] v, float[6] c) => (float[1, 4, 6] y)"
        f"{{ {_NORM}  p = MatMul (n, w)  q = Add (p, b)  r = MatMul (n, v)  s = Add (c, r)  t = Sigmoid (s)"
        "  y = Mul (q, t) }",
        "g (float[1, 4, 3] x, float[3] gamma, float[3, 6] w, float[6] b) => (float[1, 4, 6] y)"
        "{ n = LayerNormalization (x, gamma)  p = MatMul (n, w)  y = Add (p, b) }",
        "g (float[1, 4, 3] x, float[3] gamma, float[3] beta, float[6, 3] w, float[6] b) => (float[1, 6] y)"
        f"<int64 first = {{0}}> {{ {_NORM}  t = Gather <axis = 1> (n, first)  y = Gemm <transB = 1> (t, w, b) }}",
        # Windows that are shifted first, as Swin does it.
        f"{_HEAD}) => (float[2, 2, 6] y) <int64[3] s = {{2, 2, 3}}, int64[1] zero = {{0}}, int64[1] one = {{1}},"
        " int64[1] four = {4}>"
        f"{{ {_NORM}  late = Slice (n, one, four, one)  early = Slice (n, zero, one, one)"
        "  rolled = Concat <axis = 1> (late, early)  r = Reshape (rolled, s)  p = MatMul (r, w)  y = Add (p, b) }",
        "g (float[1, 4, 4, 3] x, float[3] gamma, float[3] beta, float[5, 3, 2, 2] w, float[5] b)"
        f" => (float[1, 5, 2, 2] y) {{ {_NORM}  t = Transpose <perm = [0, 3, 1, 2]> (n)"
        "  y = Conv <strides = [2, 2]> (t, w, b) }",
    ],
    ids=["two readers", "no beta", "one token", "shifted windows", "Conv"],
)
def test_the_affine_is_folded(layers, assert_same, text):
    model = layers(text)
    before = [node.op_type for node in model.graph]
    assert_same(model, fold_layer_norm)
    assert all(map(_is_plain, _affines(model)))
    assert [node.op_type for node in model.graph] == before


def test_norms_with_one_affine_are_folded_each(layers, assert_same):
    # The exporter stores equal constants once; and a bias of the same numbers is another thing.
    model = layers("""
        g (float[1, 3] x, float[3] gamma, float[3] beta, float[3, 3] w, float[3, 3] v) => (float[1, 3] y)
        { n = LayerNormalization (x, gamma, beta)  p = MatMul (n, w)  l = Add (p, beta)
          m = LayerNormalization (l, gamma, beta)  q = MatMul (m, v)  k = Add (q, beta)  y = Mul (k, gamma) }
    """)
    assert_same(model, fold_layer_norm)
    assert all(map(_is_plain, _affines(model)))


@pytest.mark.parametrize(
    "text",
    [
        f"{_HEAD}) => (float[1, 4, 6] y) {{ {_NORM}  p = MatMul (n, w)  q = Add (p, b)  e = ReduceSum (n)"
        "  y = Add (q, e) }",
        f"{_HEAD}) => (float[1, 4, 6] y, float[1, 4, 3] n) {{ {_NORM}  p = MatMul (n, w)  y = Add (p, b) }}",
        f"{_HEAD}) => (float[1, 4, 6] y) {{ {_NORM}  p = MatMul (n, w)  q = Add (p, b)  r = MatMul (n, w)"
        "  y = Add (q, r) }",
        f"{_HEAD}, float[3, 6] v) => (float[1, 4, 6] y) {{ {_NORM}  p = MatMul (n, w)  q = Add (p, b)"
        "  r = MatMul (n, v)  s = Sigmoid (r)  y = Mul (q, s) }",
        f"{_HEAD}, float[3] c) => (float[1, 4, 6] y) {{ {_NORM}  m = Mul (n, c)  p = MatMul (m, w)  y = Add (p, b) }}",
        f"{_HEAD}) => (float[1, 6] y) <int64[1] one = {{1}}> {{ {_NORM}  m = ReduceSum <keepdims = 0> (n, one)"
        "  p = MatMul (m, w)  y = Add (p, b) }",
        "g (float[1, 4, 4, 3] x, float[3] gamma, float[3] beta, float[5, 3, 3, 3] w, float[5] b)"
        f" => (float[1, 5, 4, 4] y) {{ {_NORM}  t = Transpose <perm = [0, 3, 1, 2]> (n)"
        "  y = Conv <pads = [1, 1, 1, 1]> (t, w, b) }",
        "g (float[1, 4, 4, 3] x, float[3] gamma, float[3] beta, float[3, 1, 2, 2] w, float[3] b)"
        f" => (float[1, 3, 3, 3] y) {{ {_NORM}  t = Transpose <perm = [0, 3, 1, 2]> (n)"
        "  y = Conv <group = 3> (t, w, b) }",
        f"{_HEAD}) => (float[1, 4, 6] y) <int64[6] pads = {{0, 1, 0, 0, 0, 0}}, int64[1] one = {{1}},"
        f" int64[1] five = {{5}}> {{ {_NORM}  m = Pad (n, pads)  p = MatMul (m, w)  q = Add (p, b)"
        "  y = Slice (q, one, five, one) }",
        "g (float[1, 4, 3] x, float[3] gamma, float[3] beta, float[3] g2, float[3] b2, float[3, 6] w, float[6] b)"
        f" => (float[1, 8, 6] y) {{ {_NORM}  z = Abs (x)  m = LayerNormalization (z, g2, b2)"
        "  c = Concat <axis = 1> (n, m)  p = MatMul (c, w)  y = Add (p, b) }",
        "g (float[1, 4, 3] x, float[3] gamma, float[3] beta, float[3] g2, float[3] b2, float[6, 6] w, float[6] b)"
        f" => (float[1, 4, 6] y) {{ {_NORM}  z = Abs (x)  m = LayerNormalization (z, g2, b2)"
        "  c = Concat <axis = 2> (n, m)  p = MatMul (c, w)  y = Add (p, b) }",
        "g (float[1, 4, 3] x, float[4, 3] gamma, float[4, 3] beta, float[3, 6] w, float[6] b) => (float[1, 4, 6] y)"
        "{ n = LayerNormalization <axis = 1> (x, gamma, beta)  p = MatMul (n, w)  y = Add (p, b) }",
    ],
    ids=[
        "read by something else",
        "is an output",
        "weights shared",
        "a reader without bias",
        "multiplied",
        "summed",
        "padding of zeros in the Conv",
        "depthwise",
        "padding of zeros before",
        "two norms for different tokens",
        "two norms side by side",
        "over two axes",
    ],
)
def test_what_is_not_certain_stays(layers, assert_same, text):
    model = layers(text)
    before = _affines(model)
    assert_same(model, fold_layer_norm)
    for (scale, bias), (old_scale, old_bias) in zip(_affines(model), before, strict=True):
        np.testing.assert_array_equal(scale, old_scale)
        np.testing.assert_array_equal(bias, old_bias)


@pytest.mark.parametrize(("smallest", "folds"), [(0.51, True), (-0.51, True), (0.49, False), (0.0, False)])
def test_a_norm_that_suppresses_a_channel_keeps_its_affine(graph, smallest, folds):
    model = graph(f"""
        g (float[1, 3] x) => (float[1, 1] y)
        <float[3] gamma = {{1, {smallest}, 1.5}}, float[3, 1] w = {{1, 2, 3}}, float[1] b = {{5}}>
        {{ n = LayerNormalization (x, gamma)  p = MatMul (n, w)  y = Add (p, b) }}
    """)
    assert _is_plain(_affines(fold_layer_norm(model))[0]) == folds


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        # Norms of queries and keys.
        ("vit", 4),
        ("eva02", 0),
        pytest.param("cait", 0, marks=pytest.mark.slow),
        # Queries, keys and values without biases, in both blocks.
        pytest.param("convit", 2, marks=pytest.mark.slow),
        # The stem's, to which the first block adds.
        pytest.param("convnext", 1, marks=pytest.mark.slow),
        pytest.param("deit3", 0, marks=pytest.mark.slow),
        # Keys without a bias.
        pytest.param("eva02_split", 1, marks=pytest.mark.slow),
        # The stem's, the one before a layer without a bias, and the last, which is averaged.
        pytest.param("swin", 3, marks=pytest.mark.slow),
    ],
)
def test_norms_of_a_backbone_are_plain(backbone, assert_same, name, kept):
    model = backbone(name)
    assert_same(model, fold_layer_norm)
    assert sum(not _is_plain(affine) for affine in _affines(model)) == kept
