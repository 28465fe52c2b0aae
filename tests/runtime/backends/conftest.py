"""Bundles with real ONNX models."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgemim.runtime.bundle import Bundle, load_bundle


def _as_onnx(weights: np.ndarray, batch: int | str = 1) -> bytes:
    """images [1, 3, H, W], flattened, times the weights: logits [1, K]; opset 17."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    size = int((weights.shape[0] // 3) ** 0.5)
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, weights.shape[1]])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture
def as_onnx() -> Callable[..., bytes]:
    pytest.importorskip("onnx", reason="needs onnx to make a model")
    return _as_onnx


@pytest.fixture
def real_bundle(world: SimpleNamespace, as_onnx: Callable[..., bytes]) -> Callable[..., Bundle]:
    def make(encode: Callable[[np.ndarray], bytes] = as_onnx, **options: Any) -> Bundle:
        return load_bundle(world.bundle(encode=encode, **options))

    return make
