"""Write a head that sees one row as a product and a sum, which TensorRT puts into the kernel before it.

A matrix product with one row is a sum of products per class. NVIDIA's builder turns it into that anyway, but keeps the
bias and the conversion of the result to float32 in a kernel of their own. Written as Mul and ReduceSum, norm, head,
bias and conversion are one kernel. The sum is computed in float32 in a float16 graph, as every sum is there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgemim.export.passes._edit import add_constant
from edgemim.export.passes._linear import Linear, find_linear, static_shape
from edgemim.export.passes.module_names import inherit_module

# Weights. A builder that does not fuse the two writes as many products: more than that would cost more than a kernel.
_MOST = 2**20


def sum_last_layer(model: ir.Model) -> ir.Model:
    """Rewrite every linear layer that makes an output of the graph from a single row."""
    for node in list(model.graph):
        linear = find_linear(node) if node.op_type in ("Gemm", "MatMul") else None
        if linear is not None and linear.output.is_graph_output() and _is_small_row(linear):
            _rewrite(model.graph, node, linear)
    return model


def _is_small_row(linear: Linear) -> bool:
    row, outputs = static_shape(linear.input), static_shape(linear.output)
    if row is None or outputs is None or linear.output.uses():
        return False
    return len(row) == 2 and row[0] == 1 and row[1] * outputs[1] <= _MOST


def _rewrite(graph: ir.Graph, node: ir.Node, linear: Linear) -> None:
    x, name = linear.input, str(linear.output.name)
    assert x.dtype is not None
    dtype = x.dtype.numpy()
    weights = np.moveaxis(linear.weight.read(), linear.weight.axis, 0).astype(dtype)
    classes, width = weights.shape
    after = linear.output.producer()
    assert after is not None

    def add(op_type: str, inputs: list[ir.Value], shape: list[int], **attributes: Any) -> ir.Value:
        nonlocal after
        new = ir.node(op_type, inputs, attributes, name=f"{node.name}_{op_type.lower()}")
        inherit_module(new, node)
        output = new.outputs[0]
        output.name, output.shape, output.dtype = f"{name}_{op_type.lower()}", ir.Shape(shape), x.dtype
        graph.insert_after(after, new)
        after = new
        return output

    def number(what: str, array: np.ndarray) -> ir.Value:
        return add_constant(graph, f"{name}_{what}", array)

    row = add("Unsqueeze", [x, number("rows", np.array([1], dtype=np.int64))], [1, 1, width])
    products = add("Mul", [row, number("weights", weights[None])], [1, classes, width])
    channels = number("channels", np.array([2], dtype=np.int64))
    result = add("ReduceSum", [products, channels], [1, classes], keepdims=0)
    if linear.bias is not None:
        bias = linear.bias.read().reshape(1, -1).astype(dtype)
        result = add("Add", [result, number("biases", bias)], [1, classes])
    _replace_output(graph, linear.output, result)


def _replace_output(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Return `new` under the name of `old`, whose nodes are left to be removed as unused."""
    old.name, new.name = f"{old.name}_as_product", old.name
    for position, value in enumerate(graph.outputs):
        if value is old:
            graph.outputs[position] = new
