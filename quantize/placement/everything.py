"""INT8 wherever it can be: all convolutions and linear layers, both products of every attention, residual additions.

The baseline that shows what choosing is worth, and the units on which a sensitivity analysis looks at a whole model.

Source: the defaults of ONNX Runtime's static quantization and of NVIDIA's Model Optimizer, which take these ops.

Differs: symmetric, per tensor and in one range for queries, keys and values where they come from one layer, as in
the placement `attention`; additions are the residual ones only; no limit of a target is looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container

import onnx_ir as ir

from edgemim.quantize.nodes import is_product, module_name
from edgemim.quantize.placement import PLACEMENTS
from edgemim.quantize.placement._base import Placed, Placement
from edgemim.quantize.placement._heads import Heads, find_heads, heads_unit
from edgemim.quantize.placement._joins import joins
from edgemim.quantize.placement._layers import activation_site, in_order, layer_unit, layers, numbered, role
from edgemim.quantize.sites import Site, Unit
from edgemim.runtime.targets._base import Target


class Everything(Placement):
    """All that may become INT8."""

    def place(self, graph: ir.Graph, target: Target) -> Placed:
        """See `Placement.place`."""
        known = {layer.node: layer for layer in layers(graph)}
        seen: Counter[str] = Counter()
        units = [layer_unit(layer) for layer in known.values()]
        whole: set[ir.Node] = set()
        for heads in map(find_heads, (node for node in graph if node.op_type == "Softmax")):
            if isinstance(heads, Heads):
                units.append(heads_unit(heads, known, seen))
                whole |= {heads.scores, heads.mixing[0]}
        units += _products(graph, whole, seen)
        units += [Unit(name=join.name, kind="add", sites=(join.site(0), join.site(1))) for join in joins(graph)]
        remarks = () if units else ("nothing in this model can become INT8",)
        return Placed(units=in_order(graph, units), remarks=remarks)


def _products(graph: ir.Graph, placed: Container[ir.Node], seen: Counter[str]) -> list[Unit]:
    """What is left of attentions that were not found whole: the inputs of their products, one unit per module."""
    runs: Counter[str] = Counter()
    sites: dict[str, list[Site]] = {}
    for node in filter(is_product, graph):
        module = module_name(node)
        run = runs[module]
        runs[module] += 1
        if node not in placed:
            for position, value in enumerate(node.inputs):
                name = role("left" if position == 0 else "right", run)
                assert value is not None
                sites.setdefault(module, []).append(activation_site(module, name, value, ((str(node.name), position),)))
    return [
        Unit(name=numbered(module or "attention", seen), kind="attention", sites=tuple(found))
        for module, found in sites.items()
    ]


PLACEMENTS.add("everything", Everything)
