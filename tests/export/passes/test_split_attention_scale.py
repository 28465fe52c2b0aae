"""The scale of an attention becomes two multiplications, by its root, on queries and keys."""

from __future__ import annotations

import numpy as np
import pytest

from edgemim.export.passes.fold_layer_scale import fold_layer_scale
from edgemim.export.passes.split_attention_scale import lift_attention_scale, split_attention_scale

# Queries, keys and values of two heads of four channels, each from a layer of its own.
_ATTENTION = """
    g (float[1, 5, 8] x, float[8, 8] wq, float[8, 8] wk, float[8, 8] wv, float[1, 1, 5, 5] bias)
    => (float[1, 2, 5, 4] y)
    <int64[4] split = {1, 5, 2, 4}, int64[3] merged = {2, 5, 5}, int64[4] heads = {1, 2, 5, 5},
     float scale = {0.5}, float root = {0.7071067811865476}, float inverse = {2}, float minus = {-0.5},
     float[2, 1, 1] per_head = {0.5, 0.25}>
    { qp = MatMul (x, wq)  qr = Reshape (qp, split)  q = Transpose <perm = [0, 2, 1, 3]> (qr)
      kp = MatMul (x, wk)  kr = Reshape (kp, split)  k = Transpose <perm = [0, 2, 1, 3]> (kr)
      vp = MatMul (x, wv)  vr = Reshape (vp, split)  v = Transpose <perm = [0, 2, 1, 3]> (vr)
      BODY
      weights = Softmax <axis = -1> (logits)  y = MatMul (weights, v) }
"""
_TURN = "kt = Transpose <perm = [0, 1, 3, 2]>"


@pytest.fixture
def attention(layers):
    """`attention(body)`: from `q` and `k` to `logits`, in a whole attention."""
    return lambda body: layers(_ATTENTION.replace("BODY", body))


def _scalings(model):
    """The one-number factors of a graph, by the op that reads the product, in order."""
    found = []
    for node in model.graph:
        if node.op_type in ("Mul", "Div"):
            numbers = [v.const_value.numpy() for v in node.inputs if v.const_value is not None]
            if numbers and numbers[0].size == 1:
                found += [(float(numbers[0]), use.node.op_type) for use in node.outputs[0].uses()]
    return found


@pytest.mark.parametrize(
    "body",
    [
        f"s = Mul (q, scale)  {_TURN} (k)  logits = MatMul (s, kt)",
        f"s = Mul (root, q)  t = Mul (k, root)  {_TURN} (t)  logits = MatMul (s, kt)",
        f"{_TURN} (k)  t = Div (kt, inverse)  logits = MatMul (q, t)",
        f"{_TURN} (k)  p = MatMul (q, kt)  logits = Mul (p, scale)",
        f"{_TURN} (k)  p = MatMul (q, kt)  d = Div (p, inverse)  logits = Add (d, bias)",
        f"{_TURN} (k)  p = MatMul (q, kt)  m = Reshape (p, merged)  d = Div (m, inverse)  logits = Reshape (d, heads)",
    ],
    ids=["queries", "roots", "keys", "scores", "scores with a bias", "scores in another layout"],
)
def test_the_root_of_the_scale_is_on_queries_and_keys_wherever_it_stood(attention, assert_same, body):
    model = attention(body)
    assert_same(model, split_attention_scale)
    found = _scalings(model)
    assert [number for number, _ in found] == pytest.approx([0.5**0.5] * 2)
    # Keys are multiplied before they are transposed.
    assert "Transpose" in {reader for _, reader in found}


def test_a_scale_on_the_scores_is_not_folded_into_the_queries_on_the_way(attention, assert_same):
    body = f"s = Mul (q, scale)  {_TURN} (k)  logits = MatMul (s, kt)"
    lost = attention(body)
    assert not _scalings(fold_layer_scale(lost))
    model = attention(body)
    assert_same(model, lift_attention_scale)
    assert _scalings(fold_layer_scale(model)) == [(0.5, "Softmax")]
    assert_same(model, split_attention_scale)
    assert [number for number, _ in _scalings(model)] == pytest.approx([0.5**0.5] * 2)


def test_worked_by_hand(graph, run):
    # q = 2, k = 3: scores of 6 times 1/4 are 1.5, and so are 2/2 times 3/2; the softmax of one score is 1.
    model = graph("""
        g (float[1, 1] q, float[1, 1] k) => (float[1, 1] s, float[1, 1] y) <float quarter = {0.25}>
        { p = MatMul (q, k)  s = Mul (p, quarter)  y = Softmax (s) }
    """)
    model.graph.outputs.pop(0)
    split = split_attention_scale(model)
    assert [node.op_type for node in split.graph] == ["Mul", "Mul", "MatMul", "Softmax"]
    factors = [node.inputs[1].const_value.numpy().item() for node in list(split.graph)[:2]]
    assert factors == [0.5, 0.5]
    ones = np.ones((1, 1), np.float32)
    assert run(split, q=2 * ones, k=3 * ones)[0].tolist() == [[1]]


@pytest.mark.parametrize(
    "body",
    [
        f"{_TURN} (k)  logits = MatMul (q, kt)",
        f"s = Mul (q, minus)  {_TURN} (k)  logits = MatMul (s, kt)",
        f"s = Mul (q, per_head)  {_TURN} (k)  logits = MatMul (s, kt)",
        f"f = ReduceMax (x)  s = Mul (q, f)  {_TURN} (k)  logits = MatMul (s, kt)",
        f"s = Mul (q, scale)  {_TURN} (k)  l = MatMul (s, kt)  logits = Sigmoid (l)",
    ],
    ids=["no scale", "negative", "per head", "computed", "no softmax follows"],
)
def test_everything_else_stays(attention, assert_same, body):
    model = attention(body)
    before = [node.op_type for node in model.graph]
    assert_same(model, split_attention_scale)
    assert [node.op_type for node in model.graph] == before


@pytest.mark.parametrize(
    "name",
    [
        "vit",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("beit", "deit3", "eva02", "hiera", "swin", "tiny_vit")
        ),
    ],
)
def test_every_attention_of_a_backbone_has_two_factors(backbone, assert_same, name):
    model = backbone(name)
    before = len(_scalings(model))
    softmaxes = sum(node.op_type == "Softmax" for node in model.graph)
    assert_same(model, split_attention_scale)
    # One scale became two.
    assert len(_scalings(model)) == before + softmaxes
