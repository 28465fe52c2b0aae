"""INT8 linear layers, everything else in float: input and weight of qkv, proj, fc1 and fc2 of every block.

Source: NVIDIA TensorRT documentation, explicit quantization: quantize the inputs of weighted operations, not their
outputs; and three public reports that INT8 residual additions ruin a ViT.

Differs: matrices narrower than 16 in any direction and products with a single row (the head on one pooled vector)
stay in float, since INT8 kernels do not help there.
"""

from __future__ import annotations

import onnx_ir as ir

from edgemim.quantize.nodes import is_linear
from edgemim.quantize.placement import PLACEMENTS
from edgemim.quantize.placement._base import Placed, Placement
from edgemim.quantize.placement._layers import NO_LINEAR, layer_unit, layers, worth_int8
from edgemim.runtime.targets._base import Target


class Linear(Placement):
    """Every linear layer that is worth it."""

    def place(self, graph: ir.Graph, target: Target) -> Placed:
        """See `Placement.place`."""
        found = (layer for layer in layers(graph) if is_linear(layer.node) and worth_int8(layer.node))
        units = tuple(layer_unit(layer) for layer in found)
        return Placed(units=units, remarks=() if units else (NO_LINEAR,))


PLACEMENTS.add("linear", Linear)
