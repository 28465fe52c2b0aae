"""What a quantizer must know of a graph, and make of it, before it starts."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

# What stands between the scores of an attention and its softmax: scale, bias, mask, layout.
_BETWEEN = (
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Where",
    "Cast",
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Identity",
)
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def is_transformer(model: onnx.ModelProto) -> bool:
    """Whether the graph has attention: a Softmax over the product of two activations."""
    producers = {output: node for node in model.graph.node for output in node.output}
    constants = {tensor.name for tensor in model.graph.initializer}
    softmaxes = (node for node in model.graph.node if node.op_type == "Softmax")
    return any(_comes_from_scores(node.input[0], producers, constants) for node in softmaxes)


def _comes_from_scores(value: str, producers: Mapping[str, onnx.NodeProto], constants: set[str]) -> bool:
    pending, seen = [value], set()
    while pending:
        name = pending.pop()
        node = producers.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type == "MatMul" and not constants.intersection(node.input):
            return True
        if node.op_type in _BETWEEN:
            pending.extend(node.input)
    return False


def unshare_weights(model: onnx.ModelProto) -> None:
    """Give every Conv, Gemm and MatMul weights and biases of its own, in place.

    The exporter stores equal tensors once (biases that are all zero, tied layers). A quantizer changes them
    per layer: a corrected bias would change every other user of the same tensor.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    used: set[str] = {name for node in model.graph.node if node.op_type not in _WEIGHTED for name in node.input}
    for node in model.graph.node:
        if node.op_type not in _WEIGHTED:
            continue
        for position, name in enumerate(node.input):
            if name in constants and name in used:
                copy = model.graph.initializer.add()
                copy.CopyFrom(constants[name])
                copy.name = f"{name}_of_{node.name}"
                node.input[position] = copy.name
            used.add(name)
