"""Multiply queries and keys by the root of an attention's scale each, where NVIDIA's builder fuses it best.

`softmax(s q k)` becomes `softmax((sqrt(s) q) (sqrt(s) k))`, whether the model multiplies the queries by s, both sides
by sqrt(s), or the scores; the keys are multiplied before they are transposed. TensorRT then finds the attention and
puts the multiplications into kernels that are there anyway. With the scale folded into the layers (see
`fold_attention_scale`) TensorRT-RTX takes two or three kernels more for each attention.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgemim.export.passes._edit import add_constant
from edgemim.export.passes._linear import is_constant, is_private
from edgemim.export.passes._moves import LAYOUT, bypass
from edgemim.export.passes.fold_attention_scale import scalings
from edgemim.export.passes.module_names import inherit_module

# Between the scores and their softmax: scales, masks, position biases.
_ON_SCORES = frozenset({"Add", "Div", "Mul", "Where", *LAYOUT})


def lift_attention_scale(model: ir.Model) -> ir.Model:
    """Put the scale of every attention on its scores, out of reach of passes that fold factors into layers."""
    for product, scale in _take(model):
        scores = product.outputs[0]
        readers = list(scores.uses())
        scaled = _insert(model.graph, readers[0].node, scores, scale, name=f"{product.name}_scaled", like=product)
        for use in readers:
            use.node.replace_input_with(use.idx, scaled)
    return model


def split_attention_scale(model: ir.Model) -> ir.Model:
    """Split the scale of every attention, wherever it stands, between queries and keys."""
    for product, scale in _take(model):
        for position in (0, 1):
            reader, index = _before_turning(product, position)
            value = reader.inputs[index]
            assert value is not None
            name = f"{product.name}_{('left', 'right')[position]}_scaled"
            scaled = _insert(model.graph, reader, value, math.sqrt(scale), name=name, like=product)
            reader.replace_input_with(index, scaled)
    return model


def _take(model: ir.Model) -> Iterator[tuple[ir.Node, float]]:
    """Every product of two computed values that a softmax follows and that has a scale; the scale is removed."""
    for product in [node for node in model.graph if node.op_type == "MatMul" and _makes_scores(node)]:
        found = scalings(product)
        for node, _ in found:
            bypass(node)
        if found:
            yield product, math.prod(factor for _, factor in found)


def _makes_scores(product: ir.Node) -> bool:
    if any(is_constant(value) for value in product.inputs):
        return False
    value = product.outputs[0]
    while is_private(value):
        (use,) = value.uses()
        if use.node.op_type == "Softmax":
            return True
        if use.node.op_type not in _ON_SCORES:
            return False
        value = use.node.outputs[0]
    return False


def _before_turning(product: ir.Node, position: int) -> tuple[ir.Node, int]:
    """Who reads an input of a product: the product itself, or the transposition that alone makes that input."""
    value = product.inputs[position]
    assert value is not None
    producer = value.producer()
    turned = producer is not None and producer.op_type == "Transpose" and is_private(value)
    return (producer, 0) if turned and producer is not None else (product, position)


def _insert(graph: ir.Graph, before: ir.Node, value: ir.Value, factor: float, *, name: str, like: ir.Node) -> ir.Value:
    """The product of a value and a number, of the module that `like` is of."""
    assert value.dtype is not None
    number = add_constant(graph, f"{name}_factor", np.array(factor, dtype=value.dtype.numpy()))
    node = ir.node("Mul", [value, number], name=f"node_{name}")
    inherit_module(node, like)
    output = node.outputs[0]
    output.name, output.shape, output.dtype = name, value.shape, value.dtype
    graph.insert_before(before, node)
    return output
