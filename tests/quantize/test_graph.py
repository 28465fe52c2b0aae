"""Recognising attention, and giving layers weights of their own."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edgemim.quantize.graph import is_transformer, unshare_weights


def _parse(text: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    return model


def test_attention_is_a_softmax_over_the_product_of_two_activations(attention_model):
    assert is_transformer(attention_model)


@pytest.mark.parametrize(
    "text",
    [
        # Class probabilities at the end of a convnet.
        "g (float[1, 2] x) => (float[1, 2] p) <float[2, 2] w = {1,2,3,4}>{ y = MatMul (x, w)  p = Softmax (y) }",
        # A product of activations without a softmax (a bilinear layer).
        "g (float[2, 2] x) => (float[2, 2] y) { t = Transpose (x)  y = MatMul (x, t) }",
        "g (float[2, 2] x) => (float[2, 2] y) { y = Softmax (x) }",
    ],
    ids=["classifier", "bilinear", "softmax alone"],
)
def test_other_graphs_are_not_transformers(text):
    assert not is_transformer(_parse(text))


def test_a_scale_a_bias_and_a_mask_may_stand_before_the_softmax():
    model = _parse("""
        g (float[2, 2] x, bool[2, 2] m) => (float[2, 2] y) <float s = {0.5}, float[2, 2] b = {1,2,3,4}>
        { t = Transpose (x)  c = MatMul (x, t)  d = Mul (c, s)  e = Add (d, b)
          f = Where (m, e, b)  y = Softmax (f) }
    """)
    assert is_transformer(model)


def test_layers_that_share_a_tensor_get_copies_and_compute_the_same():
    # `b` is the bias of both layers and an operand of an Add; `w` is the weight of both layers.
    model = _parse("""
        g (float[1, 2] x) => (float[1, 2] y) <float[2, 2] w = {1,2,3,4}, float[2] b = {5,6}>
        { h = Gemm (x, w, b)  a = Add (h, b)  y = Gemm (a, w, b) }
    """)
    x = np.float32([[1, -1]])
    before = ReferenceEvaluator(model).run(None, {"x": x})[0]
    unshare_weights(model)
    users: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            users[name] = users.get(name, 0) + 1
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert all(users[name] == 1 for name in tensors)
    assert sorted(tensor.tolist() for tensor in tensors.values() if tensor.ndim == 1) == [[5, 6]] * 3
    np.testing.assert_array_equal(ReferenceEvaluator(model).run(None, {"x": x})[0], before)


def test_weights_of_one_layer_only_stay_as_they_are(attention_model):
    before = attention_model.SerializeToString(deterministic=True)
    unshare_weights(attention_model)
    assert attention_model.SerializeToString(deterministic=True) == before
