"""Where factors can move: exact in float, and nowhere else."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from edgemim.quantize.folds import find_folds

_WEIGHTS = {
    "gamma": (8,),
    "beta": (8,),
    "w": (8, 24),
    "b": (24,),
    "w2": (8, 16),
    "w3": (24, 8),
    "wo": (8, 16),
    "wt": (16, 8),
    "zero": (1, 1, 8),
}
_SHAPES = {
    "thirds": np.int64([8, 8, 8]),
    "to_heads": np.int64([1, 6, 3, 2, 4]),
    "to_tokens": np.int64([1, 6, 8]),
    "to_windows": np.int64([3, 2, 8]),
    "as_before": np.int64([1, 6, 8]),
    "out": np.int64([1, 6, 16]),
    "c0": np.int64([0]),
    "c1": np.int64([1]),
    "c2": np.int64([2]),
    "c3": np.int64([3]),
    "c6": np.int64([6]),
    "scale": np.float32(0.5),
}


def _model(body, outputs="float[1, 6, 16] y"):
    proto = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 17]> g (float[1, 6, 8] x) => ({outputs}) {{ {body} }}'
    )
    rng = np.random.default_rng(0)
    read = {name for node in proto.graph.node for name in node.input}
    for name, shape in _WEIGHTS.items():
        if name in read:
            array = rng.standard_normal(shape).astype(np.float32)
            proto.graph.initializer.append(numpy_helper.from_array(array, name))
    for name, array in _SHAPES.items():
        if name in read:
            proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    for node in proto.graph.node:
        node.name = f"node_{node.output[0]}"
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def _run(model):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((1, 6, 8)).astype(np.float32)
    return session.run(None, {"x": x})


def _found(model):
    """Source, number of free channels, and readers of each fold."""
    return [
        (fold.source.outputs[0].name, int(fold.free.sum()), [reader.node.outputs[0].name for reader in fold.readers])
        for fold in find_folds(model.graph)
    ]


_NORM = "n = LayerNormalization <axis = -1> (x, gamma, beta)"
_HEADS = """
    a = MatMul (n, w)  ab = Add (a, b)  r = Reshape (ab, to_heads)  p = Transpose <perm = [2, 0, 3, 1, 4]> (r)
    q5 = Slice (p, c0, c1, c0)  k5 = Slice (p, c1, c2, c0)  v5 = Slice (p, c2, c3, c0)
    q = Squeeze (q5, c0)  k = Squeeze (k5, c0)  v = Squeeze (v5, c0)
    kt = Transpose <perm = [0, 1, 3, 2]> (k)  s = MatMul (q, kt)  t = Mul (s, scale)  z = Softmax <axis = -1> (t)
    m = MatMul (z, v)  u = Transpose <perm = [0, 2, 1, 3]> (m)  c = Reshape (u, to_tokens)  y = MatMul (c, wo)"""

_EXACT = {
    "a LayerNormalization": (f"{_NORM} y = MatMul (n, w2)", [("n", 8, ["y"])]),
    "a LayerNormalization without a bias": (
        "n = LayerNormalization <axis = -1> (x, gamma) y = MatMul (n, w2)",
        [("n", 8, ["y"])],
    ),
    "one that two layers read": (
        f"{_NORM} a = MatMul (n, wo)  d = MatMul (n, w2)  y = Mul (a, d)",
        [("n", 8, ["a", "d"])],
    ),
    "windows, rolled": (
        f"""{_NORM} l = Slice (n, c0, c2, c1)  h = Slice (n, c2, c6, c1)  o = Concat <axis = 1> (h, l)
        i = Reshape (o, to_windows)  j = MatMul (i, w2)  y = Reshape (j, out)""",
        [("n", 8, ["j"])],
    ),
    "a Gemm with its weight transposed": (
        f"{_NORM} f = Squeeze (n, c0)  g1 = Gemm <transB = 1> (f, wt)  y = Unsqueeze (g1, c0)",
        [("n", 8, ["g1"])],
    ),
    "the values of an attention": (f"{_NORM} {_HEADS}", [("n", 8, ["a"]), ("a", 8, ["y"])]),
    "a ReLU": (
        f"{_NORM} a = MatMul (n, w)  ab = Add (a, b)  e = Relu (ab)  d = MatMul (e, w3)  y = MatMul (d, wo)",
        [("n", 8, ["a"]), ("a", 24, ["d"]), ("d", 8, ["y"])],
    ),
}


@pytest.mark.parametrize(("body", "expected"), _EXACT.values(), ids=_EXACT)
def test_factors_move_without_a_change_of_the_outputs(body, expected):
    model = _model(body)
    assert _found(model) == expected
    before = _run(model)
    rng = np.random.default_rng(2)
    for fold in find_folds(model.graph):
        fold.divide(np.where(fold.free, np.exp(rng.standard_normal(len(fold.free))), 1.0))
    after = _run(model)
    # Each weight is rounded once more, by 6e-8 of itself.
    np.testing.assert_allclose(after[0], before[0], atol=1e-6 * np.abs(before[0]).max())
    for fold in find_folds(model.graph):
        fold.divide(np.where(fold.free, 2.0 ** rng.integers(-4, 5, len(fold.free)), 1.0))
    # Powers of two round nothing, so not a bit may differ.
    np.testing.assert_array_equal(_run(model)[0], after[0])


_LEFT_ALONE = {
    "something else reads it": f"{_NORM} a = MatMul (n, w2)  f = Erf (n)  d = MatMul (f, wo)  y = Add (a, d)",
    "a GELU": "a = MatMul (x, w)  e = Erf (a)  g1 = Mul (a, e)  d = MatMul (g1, w3)  f = Erf (d)  y = MatMul (f, w2)",
    "a residual": f"{_NORM} r = Add (n, x)  y = MatMul (r, w2)",
    "constants joined to it": f"{_NORM} e = Concat <axis = 1> (n, zero)  d = MatMul (e, w2)  y = Slice (d, c0, c6, c1)",
    "a weight of two layers": f"{_NORM} a = MatMul (n, w2)  d = MatMul (x, w2)  y = Add (a, d)",
    "other channels at every token": f"""{_NORM} f = Transpose <perm = [0, 2, 1]> (n)  e = Reshape (f, as_before)
        d = MatMul (e, w2)  y = Reshape (d, out)""",
    "what is divided by it": f"{_NORM} e = Div (scale, n)  y = MatMul (e, w2)",
}


@pytest.mark.parametrize("body", _LEFT_ALONE.values(), ids=_LEFT_ALONE)
def test_what_cannot_be_exact_is_left_alone(body):
    assert _found(_model(body)) == []


def test_a_graph_output_is_read_by_someone_else():
    assert _found(_model(f"{_NORM} y = MatMul (n, w2)", "float[1, 6, 16] y, float[1, 6, 8] n")) == []
