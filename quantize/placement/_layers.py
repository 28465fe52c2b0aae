"""Layers with weights: what they are called, and the sites of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from edgemim.quantize.nodes import (
    carries,
    int_attribute,
    is_convolution,
    is_linear,
    is_product,
    module_name,
    never_negative,
    output_axis,
    shape_of,
    trace_up,
)
from edgemim.quantize.sites import Site, Unit

NO_LINEAR = "no linear layer is large enough for INT8"

_NARROW = 16


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A linear layer or convolution of a graph.

    Attributes:
        node: Its second input is the weight.
        module: The torch module it belongs to.
        run: How often the graph has met this module before.
        name: Of its unit.
        kind: Of its unit.
    """

    node: ir.Node
    module: str
    run: int
    name: str
    kind: str


def layers(graph: ir.Graph) -> list[Layer]:
    """Every layer with weights, in the graph's order; names do not depend on which of them become INT8."""
    kinds = _Kinds(graph)
    runs: Counter[str] = Counter()
    names: Counter[str] = Counter()
    found = []
    for node in graph:
        if is_linear(node) or is_convolution(node):
            module, kind = module_name(node), kinds.of(node)
            parts = (module, kind) if module in kinds.products else (module or kind,)
            name = numbered(".".join(filter(None, parts)), names)
            found.append(Layer(node=node, module=module, run=runs[module], name=name, kind=kind))
            runs[module] += 1
    return found


def worth_int8(node: ir.Node) -> bool:
    """Whether an INT8 kernel can help this layer.

    A product with a single row (the head on one pooled vector, the gate of a squeeze-and-excitation) reads each weight
    once, and matrices narrower than 16 leave INT8 units idle. Convolutions may be narrow: between INT8 neighbours a
    float layer costs two conversions.
    """
    if is_convolution(node):
        return math.prod(shape_of(node.outputs[0])[2:]) > 1
    return math.prod(shape_of(node.inputs[0])[:-1]) > 1 and min(shape_of(node.inputs[1])) >= _NARROW


def layer_unit(layer: Layer) -> Unit:
    """Input and weight."""
    data, weight = layer.node.inputs[0], layer.node.inputs[1]
    assert data is not None
    assert weight is not None
    name = str(layer.node.name)
    return Unit(
        name=layer.name,
        kind=layer.kind,
        sites=(
            activation_site(layer.module, role("input", layer.run), data, ((name, 0),)),
            Site(
                module=layer.module,
                role=role("weight", layer.run),
                value=str(weight.name),
                readers=((name, 1),),
                axis=output_axis(layer.node),
            ),
        ),
    )


def activation_site(module: str, name: str, value: ir.Value, readers: tuple[tuple[str, int], ...]) -> Site:
    """A site whose type follows from what its tensor can hold."""
    return Site(module=module, role=name, value=str(value.name), readers=readers, unsigned=never_negative(value))


def role(name: str, run: int) -> str:
    """`input`, or `input.1` the second time that a module runs."""
    return f"{name}.{run}" if run else name


def numbered(name: str, seen: Counter[str]) -> str:
    """`name`, or `name#1` for the second unit of that name; `seen` is updated."""
    number = seen[name]
    seen[name] += 1
    return f"{name}#{number}" if number else name


def in_order(graph: ir.Graph, units: Iterable[Unit]) -> tuple[Unit, ...]:
    """Units by the first node that reads one of their sites."""
    order = {str(node.name): position for position, node in enumerate(graph)}
    return tuple(sorted(units, key=lambda unit: min(order[node] for site in unit.sites for node, _ in site.readers)))


class _Kinds:
    """What the layers of one graph are for."""

    def __init__(self, graph: ir.Graph) -> None:
        self._order = {node: position for position, node in enumerate(graph)}
        # Modules that multiply activations, and where they do so first.
        self.products: dict[str, int] = {}
        for node, position in self._order.items():
            if is_product(node):
                self.products.setdefault(module_name(node), position)
        self._last = {trace_up(value, carries) for value in graph.outputs}

    def of(self, node: ir.Node) -> str:
        """`patch_embed`, `head`, `conv`, `depthwise`, `qkv`, ..., else the last word of the module's name."""
        module = module_name(node)
        if "patch_embed" in module.split(".") or _cuts_patches(node):
            return "patch_embed"
        if node in self._last:
            return "head"
        if is_convolution(node):
            return "depthwise" if _is_depthwise(node) else "conv"
        if module in self.products:
            # An attention that applies its weights without a submodule of their own.
            return "qkv" if self._order[node] < self.products[module] else "proj"
        words = [part for part in module.split(".") if part and not part.isdigit()]
        return words[-1] if words else "linear"


def _cuts_patches(node: ir.Node) -> bool:
    """Whether a convolution cuts the image itself into patches that do not overlap."""
    if not is_convolution(node):
        return False
    strides = node.attributes.get("strides")
    kernel = shape_of(node.inputs[1])[2:]
    if strides is None or tuple(strides.as_ints()) != kernel or max(kernel) == 1:
        return False
    data = node.inputs[0]
    assert data is not None
    return trace_up(data, carries) is None


def _is_depthwise(node: ir.Node) -> bool:
    return 1 < int_attribute(node, "group", 1) == shape_of(node.inputs[0])[1]
