"""A head that sees one row becomes a product and a sum."""

from __future__ import annotations

import numpy as np
import pytest

from edgemim.export.passes.remove_unused import remove_unused
from edgemim.export.passes.sum_last_layer import sum_last_layer

_HEAD = """
    g (float[1, 4] x, float[4, 3] w, float[3, 4] turned, float[3] b) => (float[1, 3] y) { BODY }
"""


def _rewritten(model):
    return remove_unused(sum_last_layer(model))


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        ("r = Relu (x)  y = Gemm (r, w, b)", ["Relu", "Unsqueeze", "Mul", "ReduceSum", "Add"]),
        ("r = Relu (x)  y = Gemm <transB = 1> (r, turned, b)", ["Relu", "Unsqueeze", "Mul", "ReduceSum", "Add"]),
        ("r = Relu (x)  y = Gemm (r, w)", ["Relu", "Unsqueeze", "Mul", "ReduceSum"]),
        ("r = Relu (x)  p = MatMul (r, w)  y = Add (p, b)", ["Relu", "Unsqueeze", "Mul", "ReduceSum", "Add"]),
    ],
    ids=["gemm", "weights turned", "no bias", "matmul and add"],
)
def test_the_head_computes_what_it_did(layers, assert_same, body, ops):
    model = layers(_HEAD.replace("BODY", body))
    assert_same(model, _rewritten)
    assert [node.op_type for node in model.graph] == ops
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_worked_by_hand(graph, run):
    # (1, 2) times rows (3, 4) and (5, 6) of the weights, plus (10, 20): 3 + 8 + 10 and 5 + 12 + 20.
    model = graph("""
        g (float[1, 2] x) => (float[1, 2] y) <float[2, 2] w = {3, 4, 5, 6}, float[2] b = {10, 20}>
        { y = Gemm <transB = 1> (x, w, b) }
    """)
    assert run(_rewritten(model), x=np.array([[1, 2]], np.float32))[0].tolist() == [[21, 37]]


@pytest.mark.parametrize(
    "text",
    [
        "g (float[2, 4] x, float[4, 3] w) => (float[2, 3] y) { y = MatMul (x, w) }",
        "g (float[1, 4] x, float[4, 3] w) => (float[1, 3] y) { p = MatMul (x, w)  y = Relu (p) }",
        "g (float[1, 1, 4] x, float[4, 3] w) => (float[1, 1, 3] y) { y = MatMul (x, w) }",
    ],
    ids=["two rows", "not the last layer", "tokens"],
)
def test_everything_else_stays(layers, assert_same, text):
    model = layers(text)
    before = [node.op_type for node in model.graph]
    assert_same(model, _rewritten)
    assert [node.op_type for node in model.graph] == before


def test_a_head_of_many_weights_stays(layers):
    # One row of weights more than 2^20.
    model = layers("g (float[1, 1025] x, float[1025, 1024] w) => (float[1, 1024] y) { y = MatMul (x, w) }")
    assert [node.op_type for node in sum_last_layer(model).graph] == ["MatMul"]
