"""Linear layers with constant weights (MatMul with an Add after it, Gemm, Conv), and how to change constants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgemim.export.passes._edit import add_constant

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A constant input of a node, one number (or slice) per channel along `axis`."""

    node: ir.Node
    position: int
    axis: int

    def read(self) -> Doubles:
        """The numbers in float64, so that a fold rounds once, when it writes."""
        return constant(self.node.inputs[self.position]).astype(np.float64)

    def scale(self, factors: Doubles) -> None:
        """Multiply every channel by its factor."""
        array = self.read()
        shape = [1] * array.ndim
        shape[self.axis] = -1
        self.write(array * factors.reshape(shape))

    def write(self, array: Doubles) -> None:
        """Put other numbers in the place of these; who else reads the same constant keeps the old ones."""
        value = self.node.inputs[self.position]
        assert value is not None
        assert value.dtype is not None
        rounded = array.astype(value.dtype.numpy())
        if is_private(value):
            value.const_value = ir.tensor(rounded, name=value.name)
        else:
            graph = self.node.graph
            assert isinstance(graph, ir.Graph)
            own = add_constant(graph, f"{value.name}_of_{self.node.name}", rounded)
            self.node.replace_input_with(self.position, own)


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear:
    """A layer whose output channels are sums of its input channels.

    Attributes:
        input: What it reads.
        output: Its result, after the bias.
        weight: The weights, along the output channels.
        inputs: The weights, along the input channels; None for a grouped Conv, where the axis means another thing.
        bias: None where there is none.
        channel_axis: Where the channels lie in `input` and `output`.
    """

    input: ir.Value
    output: ir.Value
    weight: Constant
    inputs: Constant | None
    bias: Constant | None
    channel_axis: int


def find_linear(node: ir.Node) -> Linear | None:
    """The linear layer of which `node` holds the weights; None where it holds none, or shares them.

    A weight that a second node reads is left to both of them: changed, it would have to be stored twice.
    """
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("MatMul", "Gemm", "Conv"):
        return None
    x, weight = node.inputs[0], node.inputs[1]
    if x is None or x.const_value is not None or not is_constant(weight) or not is_private(weight):
        return None
    if node.op_type == "MatMul":
        if constant(weight).ndim != 2:
            return None
        return _layer(node, x, out_axis=1, in_axis=0, channel_axis=-1, bias=_added_bias(node))
    bias = Constant(node=node, position=2, axis=-1) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if bias is not None and not _is_per_channel(node.inputs[2], constant(weight).shape[_out_axis(node)]):
        return None
    if node.op_type == "Gemm":
        if node.attributes.get_int("transA", 0) or any(_number(node, name) != 1 for name in ("alpha", "beta")):
            return None
        return _layer(node, x, out_axis=_out_axis(node), in_axis=1 - _out_axis(node), channel_axis=-1, bias=bias)
    grouped = node.attributes.get_int("group", 1) != 1
    return _layer(node, x, out_axis=0, in_axis=None if grouped else 1, channel_axis=1, bias=bias)


def is_constant(value: ir.Value | None) -> bool:
    """Whether a value is known without an image."""
    return value is not None and value.const_value is not None


def is_private(value: ir.Value | None) -> bool:
    """Whether one node alone reads a value, so that nobody notices when it changes."""
    return value is not None and len(value.uses()) == 1 and not value.is_graph_output()


def constant(value: ir.Value | None) -> npt.NDArray[Any]:
    """The numbers of a constant."""
    assert value is not None
    assert value.const_value is not None
    array: npt.NDArray[Any] = value.const_value.numpy()
    return array


def static_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The sizes of a value, None where one of them is open."""
    if value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(size) for size in value.shape.numpy())


def _layer(
    node: ir.Node, x: ir.Value, *, out_axis: int, in_axis: int | None, channel_axis: int, bias: Constant | None
) -> Linear:
    return Linear(
        input=x,
        output=(node if bias is None else bias.node).outputs[0],
        weight=Constant(node=node, position=1, axis=out_axis),
        inputs=None if in_axis is None else Constant(node=node, position=1, axis=in_axis),
        bias=bias,
        channel_axis=channel_axis,
    )


def _out_axis(node: ir.Node) -> int:
    """Where the output channels lie in the weights of a Gemm or a Conv."""
    return 1 - node.attributes.get_int("transB", 0) if node.op_type == "Gemm" else 0


def _number(node: ir.Node, name: str) -> float:
    return float(node.attributes.get_float(name, 1.0))


def _added_bias(node: ir.Node) -> Constant | None:
    """The constant of the Add that alone reads a MatMul, one number per channel."""
    output = node.outputs[0]
    if not is_private(output):
        return None
    (use,) = output.uses()
    if use.node.op_type != "Add":
        return None
    position = 1 - use.idx
    if not _is_per_channel(use.node.inputs[position], constant(node.inputs[1]).shape[1]):
        return None
    return Constant(node=use.node, position=position, axis=-1)


def _is_per_channel(value: ir.Value | None, channels: int) -> bool:
    """Whether a constant has one number for each channel, and the same ones at every position."""
    if not is_constant(value):
        return False
    shape = constant(value).shape
    return len(shape) >= 1 and math.prod(shape) == shape[-1] == channels
