"""Graphs written as text, with random weights, module names and shapes, as export leaves them; and two targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from edgemim.runtime.targets import TARGETS

Build = Callable[..., ir.Model]


def build_graph(
    text: str,
    *,
    modules: Mapping[str, str] | None = None,
    other: str | None = None,
    opset: int = 17,
    half: bool = False,
    **weights: Any,
) -> ir.Model:
    """A model from the text of its graph.

    Args:
        text: `(inputs) => (outputs) { nodes }`.
        modules: Torch module by the name of a node's first output.
        other: Module of the nodes that are not listed; by default `m.<name>`, each its own.
        opset: Of the model.
        half: Turn it into float16 throughout.
        weights: Arrays, or shapes that get random float32 values.
    """
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]> g {text}')
    rng = np.random.default_rng(0)
    for name, given in weights.items():
        is_shape = isinstance(given, tuple)
        array = rng.standard_normal(given).astype(np.float32) / 4 if is_shape else np.asarray(given)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
        module = (modules or {}).get(node.output[0], other or f"m.{node.output[0]}")
        node.metadata_props.add(key="edgemim.module", value=module)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    return ir.from_proto(_to_half(model) if half else model)


def _to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return model


@pytest.fixture(scope="session")
def graph_of() -> Build:
    return build_graph


# One transformer block, 8 tokens of 32 channels, 2 heads; each piece may be replaced.
BLOCK: dict[str, str] = {
    "normed": "n = LayerNormalization <axis = -1> (x, gamma)",
    "qkv": "a = MatMul (n, w_qkv)  b = Add (a, b_qkv)  q, k, v = Split <axis = -1> (b, thirds)",
    "heads": """
        qr = Reshape (q, to_heads)  qh = Transpose <perm = [0, 2, 1, 3]> (qr)
        kr = Reshape (k, to_heads)  kt = Transpose <perm = [0, 2, 3, 1]> (kr)
        vr = Reshape (v, to_heads)  vh = Transpose <perm = [0, 2, 1, 3]> (vr)""",
    "query": "qs = Mul (qh, scale)",
    "scores": "s = MatMul (qs, kt)",
    "softmax": "p = Softmax <axis = -1> (s)",
    "mixing": "o = MatMul (p, vh)",
    "merge": "ot = Transpose <perm = [0, 2, 1, 3]> (o)  c = Reshape (ot, to_tokens)",
    "proj": "d = MatMul (c, w_proj)  e = Add (d, b_proj)",
    "residual": "r = Add (x, e)",
    "mlp": """
        f = MatMul (r, w_fc1)  g1 = Add (f, b_fc1)  h = Relu (g1)
        i = MatMul (h, w_fc2)  j = Add (i, b_fc2)  y = Add (r, j)""",
}
BLOCK_MODULES = {
    **dict.fromkeys(("a", "b"), "blocks.0.attn.qkv"),
    **dict.fromkeys(("d", "e"), "blocks.0.attn.proj"),
    **dict.fromkeys(("f", "g1"), "blocks.0.mlp.fc1"),
    **dict.fromkeys(("i", "j"), "blocks.0.mlp.fc2"),
    **dict.fromkeys(("r", "y"), "blocks.0"),
}


def build_block(
    *, modules: Mapping[str, str] | None = None, half: bool = False, width: int = 16, **pieces: Any
) -> ir.Model:
    """The block; `pieces` replace text by name, other names are weights. `width`: of a head, of which there are 2."""
    text = {name: pieces.pop(name, piece) for name, piece in BLOCK.items()}
    channels = 2 * width
    weights: dict[str, Any] = {
        "gamma": np.ones(channels, np.float32),
        "w_qkv": (channels, 3 * channels),
        "b_qkv": (3 * channels,),
        "w_proj": (channels, channels),
        "b_proj": (channels,),
        "w_fc1": (channels, 64),
        "b_fc1": (64,),
        "w_fc2": (64, channels),
        "b_fc2": (channels,),
        "scale": np.float32(width**-0.5),
        "to_heads": np.int64([1, 8, 2, width]),
        "to_tokens": np.int64([1, 8, channels]),
        "thirds": np.int64([channels] * 3),
    }
    body = "\n".join(text.values())
    used = {name: array for name, array in {**weights, **pieces}.items() if name in body}
    return build_graph(
        f"(float[1, 8, {channels}] x) => (float[1, 8, {channels}] y) {{ {body} }}",
        modules={**BLOCK_MODULES, **(modules or {})},
        other="blocks.0.attn",
        opset=20 if half else 17,
        half=half,
        **used,
    )


@pytest.fixture(scope="session")
def block_of() -> Build:
    return build_block


# A residual block as in a ResNet, then a depthwise convolution, squeeze-and-excitation, pooling and a head.
CONVNET = """
(float[1, 3, 16, 16] images) => (float[1, 10] logits)
{
    a = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (images, w_stem, b_stem)
    b = Relu (a)
    c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (b, w_first)
    d = Relu (c)
    e = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (d, w_second)
    f = Add (e, b)
    g1 = Relu (f)
    h = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 8> (g1, w_depthwise)
    s1 = ReduceMean <axes = [2, 3]> (h)
    s2 = Conv <kernel_shape = [1, 1]> (s1, w_gate)
    s3 = Sigmoid (s2)
    i = Mul (h, s3)
    j = Conv <kernel_shape = [1, 1]> (i, w_point)
    k = Add (j, g1)
    l = ReduceMean <axes = [2, 3], keepdims = 0> (k)
    logits = Gemm <transB = 1> (l, w_head, b_head)
}
"""
CONVNET_MODULES = {
    "a": "stem.conv",
    "c": "layer1.0.conv1",
    "e": "layer1.0.conv2",
    "f": "layer1.0",
    "h": "layer2.0.dw",
    "s2": "layer2.0.se.fc",
    "j": "layer2.0.pw",
    "k": "layer2.0",
    "logits": "head.fc",
}
CONVNET_WEIGHTS = {
    "w_stem": (8, 3, 3, 3),
    "b_stem": (8,),
    "w_first": (8, 8, 3, 3),
    "w_second": (8, 8, 3, 3),
    "w_depthwise": (8, 1, 3, 3),
    "w_gate": (8, 8, 1, 1),
    "w_point": (8, 8, 1, 1),
    "w_head": (10, 8),
    "b_head": (10,),
}


@pytest.fixture
def convnet() -> ir.Model:
    return build_graph(CONVNET, modules=CONVNET_MODULES, **CONVNET_WEIGHTS)


@pytest.fixture(scope="session")
def x86() -> Any:
    return TARGETS.get("x86")


@pytest.fixture(scope="session")
def jetson() -> Any:
    return TARGETS.get("jetson")
