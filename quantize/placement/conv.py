"""INT8 convolutions and linear layers, and the tensor that a residual addition before a ReLU gets from the side.

Source: NVIDIA TensorRT documentation, explicit quantization: quantize the inputs of weighted operations; an addition
that is fused into a convolution has the type of its other input, so that one is quantized too.

Differs: a residual addition that feeds no ReLU (ViT, ConvNeXt, MobileNet) is left alone, since an unbounded sum
loses too much; layers on a single position (squeeze-and-excitation, the head) stay in float. Depthwise convolutions
are taken with one scale per channel of the weight and are units of the kind `depthwise`: TensorRT often runs them
faster in float16, which a search can find out by leaving them out.
"""

from __future__ import annotations

import onnx_ir as ir

from edgemim.quantize.nodes import is_convolution
from edgemim.quantize.placement import PLACEMENTS
from edgemim.quantize.placement._base import Placed, Placement
from edgemim.quantize.placement._joins import joins
from edgemim.quantize.placement._layers import in_order, layer_unit, layers, worth_int8
from edgemim.quantize.sites import Unit
from edgemim.runtime.targets._base import Target


class Conv(Placement):
    """Every convolution and linear layer that is worth it, and the skip inputs before ReLUs."""

    def place(self, graph: ir.Graph, target: Target) -> Placed:
        """See `Placement.place`."""
        found = [layer for layer in layers(graph) if worth_int8(layer.node)]
        skips = [
            Unit(name=join.name, kind="add", sites=(join.site(join.skip),)) for join in joins(graph) if join.feeds_relu
        ]
        convolutions = any(is_convolution(layer.node) for layer in found)
        return Placed(
            units=in_order(graph, [*map(layer_unit, found), *skips]),
            remarks=() if convolutions else ("no convolution was found: this is the placement 'linear'",),
        )


PLACEMENTS.add("conv", Conv)
