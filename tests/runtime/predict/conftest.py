"""A real ONNX model of one matrix."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture
def linear(world: SimpleNamespace) -> Callable[..., bytes]:
    """Writes weights [3 H W, K] as an image of either encoding, flattened, times them: logits [1, K]; opset 17."""

    def write(weights: np.ndarray, encoding: str = "normalised") -> bytes:
        from onnx import TensorProto, helper, numpy_helper

        size = int((weights.shape[0] // 3) ** 0.5)
        nodes = [
            helper.make_node("Flatten", ["images"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        ]
        given = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])
        constants = {"weights": weights}
        if encoding == "pixels":
            constants |= {name: 255 * np.array(getattr(world.contract, name)) for name in ("mean", "std")}
            before = [
                helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
                helper.make_node("Sub", ["floats", "mean"], ["centred"]),
                helper.make_node("Div", ["centred", "std"], ["scaled"]),
                helper.make_node("Transpose", ["scaled"], ["images"], perm=[0, 3, 1, 2]),
            ]
            nodes = before + nodes
            given = helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, size, size, 3])
        graph = helper.make_graph(
            nodes,
            "linear",
            [given],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, weights.shape[1]])],
            [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(model.SerializeToString())

    return write
