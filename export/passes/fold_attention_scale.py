"""Put the scale of an attention, half and half, into the layers that make its queries and keys.

`softmax(s q k)` becomes `softmax((sqrt(s) q) (sqrt(s) k))`, whether the model multiplies the queries by s, both sides
by sqrt(s), or the scores. Then nothing stands between a projection, whose output a quantizer rounds, and the product
of the scores. The whole of s in the queries would leave them a fraction of the keys' range, where one INT8 scale
serves both.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx_ir as ir

from edgemim.export.passes._channels import LEFT, RIGHT, follow_channels
from edgemim.export.passes._linear import constant, is_private, static_shape
from edgemim.export.passes._moves import LAYOUT, bypass, computed_input


def fold_attention_scale(model: ir.Model) -> ir.Model:
    """Fold the scale of every attention whose queries and keys come from known layers and go nowhere else."""
    channels = follow_channels(model)
    factors = np.ones(len(channels.groups))
    of_products = [np.unique(channels.groups[product.heads]) for product in channels.products]
    readers = Counter(int(group) for groups in of_products for group in groups)
    for product, groups in zip(channels.products, of_products, strict=True):
        alone = all(readers[int(group)] == 1 and not channels.uses[group] & ~(LEFT | RIGHT) for group in groups)
        found = scalings(product.node) if alone else []
        if found:
            factors[np.isin(channels.groups, groups)] = math.sqrt(math.prod(factor for _, factor in found))
            for node, _ in found:
                bypass(node)
    channels.scale(factors)
    return model


def scalings(product: ir.Node) -> list[tuple[ir.Node, float]]:
    """The ops that multiply either input of a product, or its result, by one positive number."""
    before = [found for value in product.inputs for found in _above(value)]
    return before + _below(product.outputs[0])


def _above(value: ir.Value | None) -> list[tuple[ir.Node, float]]:
    found = []
    while value is not None and is_private(value) and (node := value.producer()) is not None:
        factor = _factor(node)
        if factor is not None:
            found.append((node, factor))
        elif node.op_type not in LAYOUT:
            break
        value = computed_input(node)
    return found


def _below(value: ir.Value) -> list[tuple[ir.Node, float]]:
    found = []
    while is_private(value):
        (use,) = value.uses()
        factor = _factor(use.node)
        if factor is not None:
            found.append((use.node, factor))
        elif use.node.op_type not in LAYOUT:
            break
        value = use.node.outputs[0]
    return found


def _factor(node: ir.Node) -> float | None:
    """The positive number by which a node multiplies its other input, which keeps its shape."""
    x = computed_input(node)
    if node.op_type not in ("Mul", "Div") or x is None or static_shape(x) != static_shape(node.outputs[0]):
        return None
    (number,) = (constant(value) for value in node.inputs if value is not x)
    if number.size != 1 or not number > 0:
        return None
    if node.op_type == "Mul":
        return float(number)
    return 1 / float(number) if x is node.inputs[0] else None
