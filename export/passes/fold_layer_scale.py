"""Put a constant factor per channel into the linear layer before it.

LayerScale (Touvron et al., "Going deeper with Image Transformers", ICCV 2021, arXiv:2103.17239, section 3) computes
`x + gamma * layer(x)`: gamma can as well multiply the layer's weights and bias. Some gammas are so small that the
weights underflow in fp16; what is lost there lies far below the rounding of the x that they are added to.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgemim.export.passes._channels import Channels, Source, follow_channels
from edgemim.export.passes._linear import Doubles, constant, is_constant, is_private, static_shape
from edgemim.export.passes._moves import LAYOUT, bypass, computed_input


def fold_layer_scale(model: ir.Model) -> ir.Model:
    """Fold every Mul by a constant whose other input is the output of a linear layer, read by nothing else."""
    channels = follow_channels(model)
    made_by = {source.linear.output: source for source in channels.sources if source.linear is not None}
    for node in list(model.graph):
        source = made_by.get(_origin(node)) if node.op_type == "Mul" else None
        factors = None if source is None else _factors(node, source, channels)
        if source is not None and factors is not None:
            source.scale(factors)
            bypass(node)
    return model


def _origin(node: ir.Node) -> ir.Value | None:
    """What a Mul by a constant multiplies, as it was before it got another layout; None if anything else reads it."""
    value = computed_input(node)
    while value is not None and is_private(value):
        producer = value.producer()
        if producer is None or producer.op_type not in LAYOUT:
            return value
        value = computed_input(producer)
    return None


def _factors(node: ir.Node, source: Source, channels: Channels) -> Doubles | None:
    """The factor of each channel of the layer, None where it differs between positions."""
    x = computed_input(node)
    if x is None or x not in channels.values or static_shape(x) != static_shape(node.outputs[0]):
        return None
    labels = channels.values[x]
    (numbers,) = (constant(value) for value in node.inputs if is_constant(value))
    numbers = np.broadcast_to(numbers, labels.shape)
    factors = np.ones(len(channels.groups))
    factors[labels] = numbers
    return factors[source.labels] if (factors[labels] == numbers).all() else None
