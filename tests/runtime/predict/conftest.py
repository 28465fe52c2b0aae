"""A real ONNX model of one matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture
def linear() -> Callable[[np.ndarray], bytes]:
    """Writes weights [3 H W, K] as images [1, 3, H, W], flattened, times them: logits [1, K]; opset 17."""

    def write(weights: np.ndarray) -> bytes:
        from onnx import TensorProto, helper, numpy_helper

        size = int((weights.shape[0] // 3) ** 0.5)
        nodes = [
            helper.make_node("Flatten", ["images"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        ]
        graph = helper.make_graph(
            nodes,
            "linear",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, weights.shape[1]])],
            [numpy_helper.from_array(weights, "weights")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(model.SerializeToString())

    return write
