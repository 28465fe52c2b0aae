"""Write `Col2Im` (torch's `fold`) as a transposed convolution: it is an op only since opset 18, and TensorRT has none.

Both put blocks back into an image and add where they overlap. The convolution's weights are ones and zeros: the value
that stands at place (i, j) of a block goes to place (i, j) of the output's block.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgemim.errors import EdgemimError
from edgemim.export.passes._edit import add_constant, insert_op, replace_node
from edgemim.export.passes.module_names import describe


def expand_col2im(model: ir.Model) -> ir.Model:
    """Replace every `Col2Im` of two-dimensional blocks.

    Raises:
        EdgemimError: Its sizes follow from the image, or its blocks are not two-dimensional.
    """
    for node in list(model.graph):
        if node.op_type == "Col2Im" and node.domain == "":
            _expand(model.graph, node)
    return model


def _expand(graph: ir.Graph, node: ir.Node) -> None:
    """[N, C * kh * kw, blocks] becomes [N, C * kh * kw, rows, columns], and that [N, C, H, W]."""
    x = node.inputs[0]
    assert x is not None
    image, block = _sizes(node, 1), _sizes(node, 2)
    if len(image) != 2 or x.shape is None or not x.shape.is_static():
        raise EdgemimError(f"{describe(node)} has no static two-dimensional blocks; replace that layer in the model")
    batch, width, _ = x.shape.numpy()
    channels = width // (block[0] * block[1])
    strides = list(node.attributes.get_ints("strides", (1, 1)))
    dilations = list(node.attributes.get_ints("dilations", (1, 1)))
    pads = list(node.attributes.get_ints("pads", (0, 0, 0, 0)))
    spans = [dilations[i] * (block[i] - 1) + 1 - pads[i] - pads[i + 2] for i in (0, 1)]
    rows_and_columns = [(image[i] - spans[i]) // strides[i] + 1 for i in (0, 1)]
    grid = [batch, width, *rows_and_columns]
    shape = add_constant(graph, f"{node.name}_grid", np.array(grid, dtype=np.int64))
    blocks = insert_op(graph, node, "Reshape", [x, shape], "grid")
    blocks.shape = ir.Shape(grid)
    kernel = np.eye(block[0] * block[1], dtype=(x.dtype or ir.DataType.FLOAT).numpy())
    weights = np.tile(kernel.reshape(-1, 1, *block), (channels, 1, 1, 1))
    new = replace_node(graph, node, "ConvTranspose", [blocks, add_constant(graph, f"{node.name}_places", weights)])
    # What the strides leave over at the end of the image.
    left = [(image[i] - spans[i]) % strides[i] for i in (0, 1)]
    settings = {"strides": strides, "dilations": dilations, "pads": pads, "output_padding": left, "kernel_shape": block}
    for name, numbers in settings.items():
        new.attributes[name] = ir.AttrInt64s(name, numbers)
    new.attributes["group"] = ir.AttrInt64("group", channels)


def _sizes(node: ir.Node, position: int) -> list[int]:
    value = node.inputs[position]
    if value is None or value.const_value is None:
        raise EdgemimError(f"{describe(node)} computes its sizes from the image; replace that layer in the model")
    return [int(size) for size in value.const_value.numpy().reshape(-1)]
