"""Reading a graph: modules, constants, which nodes have weights, and how values hang together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgemim.quantize.qdq import MODULE_KEY

# They move values and keep them as they are.
LAYOUT = ("Reshape", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze", "Gather", "Identity", "Flatten", "Cast")

_ARITHMETIC = ("Add", "Sub", "Mul", "Div")
_CONVOLUTIONS = ("Conv", "ConvTranspose")

_NOT_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax")
# Not negative where all that they read is not.
_KEEP_SIGN = (*LAYOUT, "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax")

# A node's name, and the position of one of its inputs.
Edge = tuple[str, int]


def module_name(node: ir.Node) -> str:
    """The torch module of a node; the empty string for the model itself."""
    return str(node.metadata_props.get(MODULE_KEY, ""))


def constant(value: ir.Value | None) -> npt.NDArray | None:
    """The numbers behind a constant value, else None."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def activations(node: ir.Node) -> list[ir.Value]:
    """The inputs of a node that are not constant."""
    return [value for value in node.inputs if value is not None and value.const_value is None]


def shape_of(value: ir.Value | None) -> tuple[int, ...]:
    """The fixed shape that every exported value has."""
    assert value is not None
    assert value.shape is not None
    return tuple(int(size) for size in value.shape.numpy())


def readers(value: ir.Value) -> tuple[Edge, ...]:
    """Everything that reads a value."""
    return tuple((str(use.node.name), use.idx) for use in value.uses())


def is_linear(node: ir.Node) -> bool:
    """A Gemm or MatMul whose second input is a constant matrix."""
    return node.op_type in ("MatMul", "Gemm") and _has_weight(node) and len(shape_of(node.inputs[1])) == 2


def is_convolution(node: ir.Node) -> bool:
    """A Conv or ConvTranspose with constant weights."""
    return node.op_type in _CONVOLUTIONS and _has_weight(node)


def is_product(node: ir.Node) -> bool:
    """A MatMul of two activations, as attention has two."""
    return node.op_type == "MatMul" and len(activations(node)) == 2


def is_layout(node: ir.Node) -> bool:
    """Whether a node only moves values."""
    return node.op_type in LAYOUT


def is_scaling(node: ir.Node) -> bool:
    """Whether a node only moves values, or multiplies all of them by one constant."""
    if node.op_type in ("Mul", "Div"):
        return any(number is not None and number.size == 1 for number in map(constant, node.inputs))
    return is_layout(node)


def carries(node: ir.Node) -> bool:
    """Whether a node passes one activation on: moves it, or scales and shifts it by constants (bias, LayerScale)."""
    return is_layout(node) or (node.op_type in _ARITHMETIC and len(activations(node)) == 1)


def output_axis(node: ir.Node) -> int:
    """The axis of the output channels in the weight of a linear layer or convolution."""
    if node.op_type == "Gemm":
        return 0 if int_attribute(node, "transB") else 1
    return 0 if node.op_type == "Conv" else 1


def int_attribute(node: ir.Node, name: str, default: int = 0) -> int:
    """An integer attribute."""
    found = node.attributes.get(name)
    return default if found is None else found.as_int()


def biased_output(node: ir.Node) -> ir.Value:
    """The output of a linear layer after its bias, which may be an Add of its own."""
    output = node.outputs[0]
    uses = list(output.uses())
    if len(uses) == 1 and uses[0].node.op_type == "Add":
        other = constant(uses[0].node.inputs[1 - uses[0].idx])
        if other is not None and other.ndim == 1:
            return uses[0].node.outputs[0]
    return output


def trace_up(value: ir.Value, through: Callable[[ir.Node], bool]) -> ir.Node | None:
    """The first node above `value` that `through` does not let pass; None where the graph begins.

    A node that is let pass has one activation among its inputs; where it has more, the first one is followed.
    """
    node = value.producer()
    while node is not None and through(node):
        data = activations(node)
        node = data[0].producer() if data else None
    return node


def never_negative(value: ir.Value) -> bool:
    """Whether no image can make a value negative, so that uint8 serves it better than int8."""
    number = constant(value)
    if number is not None:
        return bool((number >= 0).all())
    node = value.producer()
    if node is None:
        return False
    if node.op_type == "Clip":
        lowest = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        return lowest is not None and float(lowest) >= 0
    if node.op_type in ("Mul", "Concat"):
        return all(never_negative(v) for v in node.inputs if v is not None)
    if node.op_type in _KEEP_SIGN:
        return all(never_negative(v) for v in activations(node))
    return node.op_type in _NOT_NEGATIVE


def largest(array: npt.NDArray, axis: int) -> npt.NDArray[np.float32]:
    """Largest magnitude along all axes but one."""
    others = tuple(a for a in range(array.ndim) if a != axis)
    found: npt.NDArray[np.float32] = np.abs(array.astype(np.float32)).max(axis=others)
    return found


def _has_weight(node: ir.Node) -> bool:
    """Whether an activation meets a constant second input."""
    data, weight = node.inputs[0], node.inputs[1]
    return data is not None and data.const_value is None and weight is not None and weight.const_value is not None
