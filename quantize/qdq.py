"""What quantization may leave in a graph, so that every target takes the same file.

TensorRT, OpenVINO and ONNX Runtime agree on this much: QuantizeLinear and DequantizeLinear of int8 with zero
point 0, one scale per tensor for activations, one per output channel for weights, everything else in float. Where a
target takes it, an activation that is never negative is uint8, with zero point 0 as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edgemim.errors import EdgemimError

# The key under which export notes the torch module of a node (edgemim.export.passes.module_names).
MODULE_KEY = "edgemim.module"

QDQ_OPS = ("QuantizeLinear", "DequantizeLinear")

# Integer arithmetic that TensorRT refuses to parse.
_REFUSED = ("QLinearMatMul", "QLinearConv", "MatMulInteger", "ConvInteger", "DynamicQuantizeLinear")


def check_qdq(model: onnx.ModelProto) -> dict[str, dict[str, int]]:
    """Refuse what some target cannot take; count the rest.

    Returns:
        The number of nodes by op and dtype: `{"QuantizeLinear": {"int8": 14}}`.

    Raises:
        EdgemimError: Nothing is quantized, or a rule of this module's docstring is broken.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    counts: dict[str, Counter[str]] = {op: Counter() for op in QDQ_OPS}
    for node in model.graph.node:
        if node.domain or node.op_type in _REFUSED:
            raise EdgemimError(f"quantization left the op {node.domain}:{node.op_type}, which not every target takes")
        if node.op_type in QDQ_OPS:
            counts[node.op_type][str(_check_node(node, constants))] += 1
    if not counts["QuantizeLinear"]:
        raise EdgemimError("quantization found nothing to quantize in this model; use its fp32 flavour")
    return {op: dict(sorted(found.items())) for op, found in counts.items()}


def make_signed(model: onnx.ModelProto) -> int:
    """Turn uint8 activations with zero point 0 into int8, in place; returns how many tensors changed.

    The step grows from max/255 to max/127. Left alone, TensorRT would read the uint8 as int8 and cut off the
    upper half of the range.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    changed: set[str] = set()
    for node in _qdq_nodes(model):
        scale, zero_point = constants[node.input[1]], constants[node.input[2]]
        if zero_point.data_type == onnx.TensorProto.UINT8 and not numpy_helper.to_array(zero_point).any():
            zeros = np.zeros(tuple(zero_point.dims), dtype=np.int8)
            wider = (numpy_helper.to_array(scale) * np.float32(255 / 127)).astype(np.float32)
            zero_point.CopyFrom(numpy_helper.from_array(zeros, zero_point.name))
            scale.CopyFrom(numpy_helper.from_array(wider, scale.name))
            changed.add(scale.name)
    for value in model.graph.value_info:
        if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
            value.type.tensor_type.elem_type = onnx.TensorProto.INT8
    return len(changed)


def name_modules(model: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Give every node its torch module again, in place.

    A node of the original graph keeps its module; a node that the quantizer added gets the module that it
    feeds, since a scale belongs to the layer whose input it is.
    """
    known = {node.name: module for node in original.graph.node if (module := module_of(node)) is not None}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    # Backwards, so that what a new node feeds has its name already.
    for node in reversed(model.graph.node):
        if module_of(node) is not None:
            continue
        fed = (module_of(user) for output in node.output for user in users.get(output, []))
        module = known.get(node.name, next((name for name in fed if name is not None), None))
        if module is not None:
            node.metadata_props.add(key=MODULE_KEY, value=module)


def module_of(node: onnx.NodeProto) -> str | None:
    """The torch module of a node, the empty string for the model itself, None where it is not noted."""
    return next((entry.value for entry in node.metadata_props if entry.key == MODULE_KEY), None)


def _qdq_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    return (node for node in model.graph.node if node.op_type in QDQ_OPS)


def _check_node(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> np.dtype:
    """The integer dtype of a QuantizeLinear or DequantizeLinear that follows the rules."""
    if len(node.input) < 3 or node.input[1] not in constants or node.input[2] not in constants:
        raise EdgemimError(f"{node.op_type} {node.name!r} needs a constant scale and zero point")
    scale = numpy_helper.to_array(constants[node.input[1]])
    zero_point: npt.NDArray[np.integer] = numpy_helper.to_array(constants[node.input[2]])
    if zero_point.any():
        raise EdgemimError(f"{node.op_type} {node.name!r} has a zero point that is not 0, which TensorRT refuses")
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise EdgemimError(f"{node.op_type} {node.name!r} has a scale that is not a positive number")
    if scale.size > 1 and node.input[0] not in constants:
        raise EdgemimError(f"{node.op_type} {node.name!r} has a scale per channel on an activation, not one per tensor")
    return zero_point.dtype
