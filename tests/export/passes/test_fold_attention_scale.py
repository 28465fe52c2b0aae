"""The scale of an attention goes, half and half, into the layers of its queries and keys."""

from __future__ import annotations

import numpy as np
import pytest

from edgemim.export.passes.fold_attention_scale import fold_attention_scale

# One projection, split into queries, keys and values of two heads of four channels as timm does it.
_FUSED = """
    g (float[1, 5, 3] x, float[3, 24] w, float[24] b, float[5, 4] table,
       float[1, 2, 1, 4] token, float[4] norm_scale, float[4] norm_bias)
    => (float[1, 2, 5, 4] y)
    <int64[5] split = {1, 5, 3, 2, 4}, int64[3] merged = {2, 5, 5}, int64[4] heads = {1, 2, 5, 5},
     int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}, int64[1] four = {4},
     int64[1] five = {5},
     float scale = {0.5}, float root = {0.7071067811865476}, float inverse = {2}, float minus = {-0.5},
     float[2, 1, 1] per_head = {0.5, 0.25}>
    { product = MatMul (x, w)  qkv = Add (product, b)  parts = Reshape (qkv, split)
      sorted = Transpose <perm = [2, 0, 3, 1, 4]> (parts)
      q_slice = Slice (sorted, zero, one, zero)  q = Squeeze (q_slice, zero)
      k_slice = Slice (sorted, one, two, zero)  k = Squeeze (k_slice, zero)
      v_slice = Slice (sorted, two, three, zero)  v = Squeeze (v_slice, zero)
      BODY
      weights = Softmax <axis = -1> (logits)  y = MatMul (weights, v) }
"""
_TURN = "kt = Transpose <perm = [0, 1, 3, 2]>"


@pytest.fixture
def attention(layers):
    """`attention(body)`: from `q` and `k` to `logits`, in a whole attention."""
    return lambda body: layers(_FUSED.replace("BODY", body))


def _scalings(model):
    """How often a value is multiplied or divided by one number."""
    nodes = [node for node in model.graph if node.op_type in ("Mul", "Div")]
    return sum(any(v.const_value is not None and v.const_value.size == 1 for v in node.inputs) for node in nodes)


def test_both_sides_get_the_root_of_the_scale(graph, run):
    # Worked: q = 2 x, k = 3 x, scale 1/4. Its root halves both: q = x, k = 1.5 x, and x = 2 gives 2 * 3 = 6.
    model = graph("""
        g (float[1, 1] x) => (float[1, 1] y) <float[1, 1] a = {2}, float[1, 1] b = {3}, float quarter = {0.25}>
        { q = MatMul (x, a)  k = MatMul (x, b)  scaled = Mul (q, quarter)  y = MatMul (scaled, k) }
    """)
    folded = fold_attention_scale(model)
    assert [node.op_type for node in folded.graph] == ["MatMul"] * 3
    assert folded.graph.initializers["a"].const_value.numpy().tolist() == [[1]]
    assert folded.graph.initializers["b"].const_value.numpy().tolist() == [[1.5]]
    assert run(folded, x=np.full((1, 1), 2, np.float32))[0].tolist() == [[6]]


@pytest.mark.parametrize(
    "body",
    [
        f"s = Mul (q, scale)  {_TURN} (k)  logits = MatMul (s, kt)",
        f"s = Mul (root, q)  t = Mul (k, root)  {_TURN} (t)  logits = MatMul (s, kt)",
        f"{_TURN} (k)  t = Div (kt, inverse)  logits = MatMul (q, t)",
        f"{_TURN} (k)  p = MatMul (q, kt)  logits = Mul (p, scale)",
        f"{_TURN} (k)  p = MatMul (q, kt)  m = Reshape (p, merged)  d = Div (m, inverse)  logits = Reshape (d, heads)",
        f"late = Slice (q, one, four, three)  early = Slice (q, zero, one, three)"
        f"  back = Concat <axis = 3> (late, early)  s = Mul (back, scale)  {_TURN} (k)  logits = MatMul (s, kt)",
        # Rotary positions: halves of the channels change places, are multiplied by tables and added.
        f"near = Slice (q, zero, two, three)  far = Slice (q, two, four, three)  minus_far = Neg (far)"
        f"  turned = Concat <axis = 3> (minus_far, near)  cosine = Mul (q, table)  sine = Mul (turned, table)"
        f"  rotated = Add (cosine, sine)  s = Mul (rotated, scale)  {_TURN} (k)  logits = MatMul (s, kt)",
        f"m = ReduceMax (q, one)  s = Mul (m, scale)  {_TURN} (k)  logits = MatMul (s, kt)",
    ],
    ids=[
        "queries",
        "roots",
        "keys",
        "scores",
        "scores in another layout",
        "channels reordered",
        "rotary",
        "largest of the heads",
    ],
)
def test_the_scale_is_folded_wherever_it_stands(attention, assert_same, body):
    model = attention(body)
    assert _scalings(model)
    assert_same(model, fold_attention_scale)
    assert not _scalings(model)


def test_norms_of_queries_and_keys_take_the_scale(attention, assert_same):
    model = attention(
        "qn = LayerNormalization (q, norm_scale, norm_bias)  kn = LayerNormalization (k, norm_scale)"
        f"  s = Mul (qn, scale)  {_TURN} (kn)  logits = MatMul (s, kt)"
    )
    weights = model.graph.initializers["w"].const_value.numpy()
    assert_same(model, fold_attention_scale)
    assert not _scalings(model)
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), weights)


def test_queries_that_are_the_sum_of_two_layers_are_folded_in_both(layers, assert_same):
    model = layers("""
        g (float[1, 5, 3] x, float[3, 4] a, float[3, 4] a2, float[3, 4] b, float[4] c) => (float[1, 5, 5] y)
        <float scale = {0.5}>
        { q1 = MatMul (x, a)  q2 = MatMul (x, a2)  q = Sub (q1, q2)  p = MatMul (x, b)  k = Add (p, c)
          s = Mul (q, scale)  t = Transpose <perm = [0, 2, 1]> (k)  logits = MatMul (s, t)
          y = Softmax <axis = -1> (logits) }
    """)
    assert_same(model, fold_attention_scale)
    assert not _scalings(model)


@pytest.mark.parametrize(
    "body",
    [
        f"s = Mul (q, scale)  {_TURN} (k)  l = MatMul (s, kt)  e = ReduceMax (k, zero)  f = ReduceSum (e)"
        "  g = Sigmoid (f)  logits = Add (l, g)",
        "t = Transpose <perm = [1, 0]> (table)  s = Mul (q, scale)  logits = MatMul (s, t)",
        f"s = Mul (q, minus)  {_TURN} (k)  logits = MatMul (s, kt)",
        f"s = Mul (q, per_head)  {_TURN} (k)  logits = MatMul (s, kt)",
        f"s = Mul (q, scale)  {_TURN} (k)  l = MatMul (s, kt)  e = ReduceSum (s)  logits = Add (l, e)",
        f"f = ReduceMax (x)  s = Mul (q, f)  {_TURN} (k)  logits = MatMul (s, kt)",
        f"r = Add (q, table)  s = Mul (r, scale)  {_TURN} (k)  logits = MatMul (s, kt)",
        f"s = Mul (q, scale)  {_TURN} (k)  l = MatMul (s, kt)  u = Transpose <perm = [0, 1, 3, 2]> (v)"
        "  e = MatMul (q, u)  logits = Add (l, e)",
        f"s = Mul (q, scale)  {_TURN} (k)  l = MatMul (s, kt)  e = Sigmoid (kt)"
        "  f = MatMul (q, e)  logits = Add (l, f)",
        f"{_TURN} (k)  l = MatMul (q, kt)  logits = Div (scale, l)",
        f"r = Div (root, q)  s = Mul (r, scale)  {_TURN} (k)  logits = MatMul (s, kt)",
        f"f = ReduceMax (x)  r = Div (f, q)  s = Mul (r, scale)  {_TURN} (k)  logits = MatMul (s, kt)",
        f"early = Slice (q, zero, two, two)  late = Slice (q, three, five, two)"
        f"  r = Concat <axis = 2> (early, token, late)  s = Mul (r, scale)  {_TURN} (k)  logits = MatMul (s, kt)",
        f"s = Mul (q, scale)  {_TURN} (k)  l = MatMul (s, kt)  e = LayerNormalization (q, norm_scale)"
        "  f = ReduceSum (e)  logits = Add (l, f)",
    ],
    ids=[
        "keys read elsewhere",
        "keys constant",
        "negative",
        "per head",
        "scaled queries read elsewhere",
        "computed",
        "absolute positions",
        "queries with two partners",
        "queries with an unknown partner",
        "divided by the scores",
        "inverse queries",
        "divided by the queries",
        "a constant token",
        "queries normalised elsewhere",
    ],
)
def test_what_is_not_certain_stays(attention, assert_same, body):
    model = attention(body)
    before = [node.op_type for node in model.graph]
    assert_same(model, fold_attention_scale)
    assert [node.op_type for node in model.graph] == before


def test_shared_weights_stay(layers, assert_same):
    model = layers("""
        g (float[1, 5, 3] x, float[3, 4] a, float[3, 4] b) => (float[1, 5, 5] y) <float scale = {0.5}>
        { q = MatMul (x, a)  k = MatMul (x, b)  s = Mul (q, scale)  t = Transpose <perm = [0, 2, 1]> (k)
          p = MatMul (s, t)  v = MatMul (x, b)  u = Transpose <perm = [0, 2, 1]> (v)  r = Sigmoid (v)
          e = MatMul (r, u)  y = Add (p, e) }
    """)
    assert_same(model, fold_attention_scale)
    assert _scalings(model) == 1


@pytest.mark.parametrize(
    "name",
    [
        "vit",
        "eva02",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "beit",
                "cait",
                "convit",
                "deit3",
                "eva02_split",
                "hiera",
                "rope",
                "swin",
                "tiny_vit",
            )
        ),
    ],
)
def test_no_scale_is_left_in_a_backbone(backbone, assert_same, name):
    model = backbone(name)
    before = _scalings(model)
    softmaxes = sum(node.op_type == "Softmax" for node in model.graph)
    assert_same(model, fold_attention_scale)
    assert before - _scalings(model) == softmaxes
