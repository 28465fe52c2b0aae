"""Small ONNX files for NVIDIA's library, real or fake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SIZE, CLASSES = 8, 5


def linear_model(
    weights: np.ndarray, *, opset: int = 17, qdq: bool = False, operator: str = "MatMul", batch: Any = 1
) -> bytes:
    """images [1, 3, H, W] flattened times the weights [3 H W, K]: logits [1, K]. With `qdq` the images are INT8."""
    from onnx import TensorProto, helper, numpy_helper

    size = int((weights.shape[0] // 3) ** 0.5)
    constants = {"weights": weights.astype(np.float32)}
    nodes = [helper.make_node("Flatten", ["images"], ["flat"], name="flatten")]
    last = "flat"
    if qdq:
        constants |= {"step": np.float32(0.02), "zero": np.int8(0)}
        nodes.append(helper.make_node("QuantizeLinear", ["flat", "step", "zero"], ["q"], name="quantize"))
        nodes.append(helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["dq"], name="dequantize"))
        last = "dq"
    nodes.append(helper.make_node(operator, [last, "weights"], ["logits"], name="head/product"))
    for node in nodes:
        node.metadata_props.add(key="edgemim.module", value="head" if node.name.startswith("head") else "")
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, weights.shape[1]])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return bytes(model.SerializeToString())


def weights(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3 * SIZE * SIZE, CLASSES)).astype(np.float32) / 16


def write_linear(folder: Path, **options: Any) -> Path:
    file = folder / "model.onnx"
    file.write_bytes(linear_model(weights(), **options))
    return file
