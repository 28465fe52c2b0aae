"""Let a graph take pixels, uint8 [B, H, W, 3], instead of normalised floats: normalisation becomes part of it.

Where every reader of the input is a convolution without padding (a patch embedding), normalisation goes into its
weight and bias, computed in float64. What is left is to take 128 away from the pixels. That is exact in float32,
float16 and bfloat16, since the result needs eight bits; and it keeps the images' mean off the rounding of the
weights, which would do twice the harm otherwise. In float16 the result is also divided by a power of two, which is
exact too: the weights, divided by about 57, would lose bits as subnormal numbers.

With padding, or with weights behind a DequantizeLinear, mean and std are applied to every channel, in float32.

The Cast comes first, although a transposition of uint8 moves a quarter of the bytes: no other op of TensorRT
takes uint8. The constants come after the transposition: ONNX Runtime is slow to broadcast along the last axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgemim.export.passes._edit import add_constant
from edgemim.export.passes.module_names import inherit_module
from edgemim.preprocess import Preprocess

PIXELS = "pixels"

_MIDDLE = 128
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

_Doubles = npt.NDArray[np.float64]


def pixel_input(model: ir.Model, preprocess: Preprocess) -> ir.Model:
    """Replace the only input, float [B, 3, H, W], by `pixels`, uint8 [B, H, W, 3].

    Args:
        model: A graph with fixed shapes.
        preprocess: The contract whose mean and std the input was normalised with.

    Raises:
        ValueError: The graph has another input than such images.
    """
    graph, images = model.graph, _images(model.graph)
    # Of values from 0 to 255.
    mean, std = (np.asarray(numbers, dtype=np.float64) * 255 for numbers in (preprocess.mean, preprocess.std))
    source = _without_cast(images)
    convs = [node for node in source.consumers() if _is_patch_embedding(node, source)]
    if len(convs) < len(source.consumers()):
        _normalise(_replace_input(graph, images, ir.DataType.FLOAT), images, mean, std)
        return model
    assert source.dtype is not None
    chain = _replace_input(graph, images, source.dtype)
    scale = _power_of_two(std) if source.dtype == ir.DataType.FLOAT16 else 1.0
    chain.add("Sub", "centred", np.array(_MIDDLE))
    if scale != 1:
        chain.add("Mul", "scaled", np.array(1 / scale))
    for conv in convs:
        _fold(graph, conv, factor=scale / std, shift=(_MIDDLE - mean) / std)
    source.replace_all_uses_with(chain.value)
    cast = source.producer()
    if cast is not None:
        graph.remove(cast, safe=True)
    return model


@dataclass
class _Chain:
    """Nodes at the start of a graph, one behind the other.

    Attributes:
        reader: The first node that reads the images; the new ones belong to its module.
        value: What the last one returns.
    """

    graph: ir.Graph
    start: ir.Node
    reader: ir.Node
    value: ir.Value

    def add(
        self,
        op_type: str,
        name: str,
        constant: _Doubles | None = None,
        *,
        shape: ir.Shape | None = None,
        dtype: ir.DataType | None = None,
        **attributes: Any,
    ) -> None:
        """Append a node; shape and dtype are its input's unless given, its constant gets that dtype."""
        inputs, name = [self.value], f"{PIXELS}_{name}"
        if constant is not None:
            assert self.value.dtype is not None
            numbers = np.asarray(constant).astype(self.value.dtype.numpy())
            inputs.append(add_constant(self.graph, f"{name}_constant", numbers))
        node = ir.node(op_type, inputs, attributes, name=f"node_{name}")
        inherit_module(node, self.reader)
        output = node.outputs[0]
        output.name, output.shape, output.dtype = name, shape or self.value.shape, dtype or self.value.dtype
        self.graph.insert_before(self.start, node)
        self.value = output


def _images(graph: ir.Graph) -> ir.Value:
    """The input, if it is what the pass can replace."""
    found = [(value.name, str(value.dtype), str(value.shape)) for value in graph.inputs]
    if len(graph.inputs) == 1:
        images = graph.inputs[0]
        shape = images.shape
        if images.dtype in _FLOATS and shape is not None and shape.is_static() and len(shape) == 4 and shape[1] == 3:
            return images
    raise ValueError(f"the graph must have one input, float [B, 3, H, W]; found {found}")


def _without_cast(images: ir.Value) -> ir.Value:
    """The images behind a Cast to another float type, if all that reads them is such a Cast."""
    readers = images.consumers()
    if len(readers) == 1 and readers[0].op_type == "Cast" and readers[0].outputs[0].dtype in _FLOATS:
        return readers[0].outputs[0]
    return images


def _is_patch_embedding(node: ir.Node, source: ir.Value) -> bool:
    """Whether `node` is a convolution of `source` that sees no padding, with constant weights."""
    if node.op_type != "Conv" or node.domain not in ("", "ai.onnx") or node.inputs[0] is not source:
        return False
    parameters = node.inputs[1:]
    constant = all(value is None or value.const_value is not None for value in parameters)
    pads, mode = node.attributes.get_ints("pads", ()), node.attributes.get_string("auto_pad", "NOTSET")
    return constant and not any(pads) and mode in ("NOTSET", "VALID") and node.attributes.get_int("group", 1) == 1


def _replace_input(graph: ir.Graph, images: ir.Value, dtype: ir.DataType) -> _Chain:
    """Put the new input in the place of the old one, and turn it into a float image [B, 3, H, W], 0 to 255."""
    assert images.shape is not None
    batch, channels, height, width = images.shape
    pixels = ir.Value(name=PIXELS, shape=ir.Shape([batch, height, width, channels]))
    pixels.dtype = ir.DataType.UINT8
    reader = next(node for node in graph if images in node.inputs)
    graph.inputs[0] = pixels
    chain = _Chain(graph, graph[0], reader, pixels)
    chain.add("Cast", "float", to=dtype.value, dtype=dtype)
    chain.add("Transpose", "planes", perm=[0, 3, 1, 2], shape=images.shape)
    return chain


def _normalise(chain: _Chain, images: ir.Value, mean: _Doubles, std: _Doubles) -> None:
    """Mean and std, one node each; everything that read the images reads the result."""
    chain.add("Sub", "centred", mean.reshape(1, 3, 1, 1))
    chain.add("Mul", "normalised", 1 / std.reshape(1, 3, 1, 1))
    if images.dtype is not None and images.dtype != chain.value.dtype:
        chain.add("Cast", "rounded", to=images.dtype.value, dtype=images.dtype)
    images.replace_all_uses_with(chain.value)


def _power_of_two(std: _Doubles) -> float:
    """The one nearest to the standard deviations."""
    return float(2.0 ** round(np.log2(std).mean()))


def _fold(graph: ir.Graph, conv: ir.Node, *, factor: _Doubles, shift: _Doubles) -> None:
    """Give a convolution weights for `x` that compute what the old ones did for `x * factor + shift`."""
    old = [value for value in conv.inputs[1:] if value is not None]
    weight, bias = _numbers(old[0]), _numbers(old[1]) if len(old) > 1 else 0.0
    assert old[0].dtype is not None
    dtype = old[0].dtype.numpy()
    new_weight = weight * factor.reshape(1, 3, 1, 1)
    new_bias = bias + weight.sum(axis=(2, 3)) @ shift
    conv.resize_inputs(3)
    conv.replace_input_with(1, add_constant(graph, f"{conv.name}_weight_on_pixels", new_weight.astype(dtype)))
    conv.replace_input_with(2, add_constant(graph, f"{conv.name}_bias_on_pixels", new_bias.astype(dtype)))
    for value in old:
        if not value.uses() and value.name in graph.initializers:
            del graph.initializers[value.name]


def _numbers(value: ir.Value) -> _Doubles:
    assert value.const_value is not None
    numbers: _Doubles = value.const_value.numpy().astype(np.float64)
    return numbers
