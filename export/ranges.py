"""The largest magnitude of every float tensor of a graph, on given images: what decides where float16 is too small.

Every tensor is reduced to one number inside the graph, so that no activation is kept for longer than the model
itself needs it.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir

from edgemim.export.parity import Floats, open_session

_ABS, _MAX = "edgemim_abs", "edgemim_max"


def largest_values(model: ir.Model, images: Floats) -> dict[str, float]:
    """Largest |value| of every float32 tensor that depends on the image, by the tensor's name.

    Args:
        model: A float32 graph of opset 18 or newer, with fixed shapes and one input; it is not changed.
        images: float32 [G, 3, H, W]; G need not be a multiple of the graph's batch.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    names = [
        value.name
        for value in (*model.graph.inputs, *(output for node in model.graph for output in node.outputs))
        if value.name and value.dtype == ir.DataType.FLOAT and _size(value)
    ]
    session = open_session(_with_probes(ir.to_proto(model), set(names)))
    source = session.get_inputs()[0]
    batch = source.shape[0]
    wanted = [f"{_MAX}/{name}" for name in names]
    largest = np.zeros(len(names))
    for start in range(0, len(images), batch):
        # Images that fill up the last batch change no maximum.
        part = np.resize(images[start : start + batch], (batch, *images.shape[1:]))
        largest = np.maximum(largest, [float(number) for number in session.run(wanted, {source.name: part})])
    return dict(zip(names, largest.tolist(), strict=True))


def _size(value: ir.Value) -> int:
    assert value.shape is not None
    return math.prod(int(size) for size in value.shape.numpy())


def _with_probes(proto: onnx.ModelProto, names: set[str]) -> bytes:
    """The model with the largest magnitude of each tensor as its outputs.

    A probe stands right behind the node that it watches: ONNX Runtime keeps that order, and frees the tensor.
    """
    nodes = list(proto.graph.node)
    del proto.graph.node[:], proto.graph.output[:]
    for value in proto.graph.input:
        _probe(proto.graph, value.name, names)
    for node in nodes:
        proto.graph.node.append(node)
        for name in node.output:
            _probe(proto.graph, name, names)
    return bytes(proto.SerializeToString())


def _probe(graph: onnx.GraphProto, name: str, names: set[str]) -> None:
    if name not in names:
        return
    magnitude, largest = f"{_ABS}/{name}", f"{_MAX}/{name}"
    graph.node.append(onnx.helper.make_node("Abs", [name], [magnitude]))
    graph.node.append(onnx.helper.make_node("ReduceMax", [magnitude], [largest], keepdims=0))
    graph.output.append(onnx.helper.make_tensor_value_info(largest, onnx.TensorProto.FLOAT, []))
