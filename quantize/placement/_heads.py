"""Finding an attention in a graph: the softmax, what it is computed from, and what it is used for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx_ir as ir

from edgemim.quantize.nodes import (
    Edge,
    biased_output,
    is_layout,
    is_linear,
    is_product,
    is_scaling,
    module_name,
    shape_of,
    trace_up,
)
from edgemim.quantize.placement._layers import Layer, activation_site, numbered, role
from edgemim.quantize.sites import Unit

# What may stand between the scores and the softmax, beside layout: scale, bias, mask.
_ON_SCORES = ("Add", "Mul", "Div", "Where")


@dataclass(frozen=True, kw_only=True)
class Heads:
    """An attention whose queries, keys and values come straight from linear layers.

    Attributes:
        module: The torch module of the scores.
        scores: The product of queries and keys.
        mixing: The product of the softmax and the values, and the position of the softmax in it.
        sources: The linear layers that queries, keys and values come from, each once.
        projection: The linear layer that reads what was mixed; None if anything else does.
    """

    module: str
    scores: ir.Node
    mixing: tuple[ir.Node, int]
    sources: tuple[ir.Node, ...]
    projection: ir.Node | None

    @property
    def widths(self) -> set[int]:
        """Of a head: of queries and keys, and of values."""
        mixing, position = self.mixing
        values = shape_of(mixing.inputs[1 - position])
        return {shape_of(self.scores.inputs[0])[-1], values[-1 if position == 0 else -2]}

    @property
    def tokens(self) -> int:
        """Queries or keys, whichever are more."""
        return max(shape_of(self.scores.outputs[0])[-2:])


def find_heads(softmax: ir.Node) -> Heads | str | None:
    """The attention around a softmax; a string says why it cannot have INT8 products; None: it is no attention."""
    scores, mixing = _scores_above(softmax.inputs[0]), _mixing_below(softmax)
    if scores is None and mixing is None:
        return None
    if scores is None:
        return "the scores are no product of queries and keys"
    if mixing is None:
        return "the softmax is not read by one product alone"
    node, position = mixing
    sources = [_source(value) for value in (*scores.inputs, node.inputs[1 - position])]
    if None in sources:
        return "queries, keys or values do not come straight from a linear layer"
    return Heads(
        module=module_name(scores),
        scores=scores,
        mixing=mixing,
        sources=tuple(dict.fromkeys(source for source in sources if source is not None)),
        projection=_projection(node),
    )


def attention_module(softmax: ir.Node) -> str:
    """The module of the scores where there are some, since a softmax may be a module of its own."""
    return module_name(_scores_above(softmax.inputs[0]) or softmax)


def heads_unit(heads: Heads, layers: dict[ir.Node, Layer], seen: Counter[str]) -> Unit:
    """One scale on the output of each source, after its bias, and one on the softmax.

    Args:
        heads: The attention.
        layers: By node, all of the graph.
        seen: How many attentions each module had so far; updated.
    """
    name = heads.module or "attention"
    run = seen[name]
    sites = []
    for source in heads.sources:
        layer, value = layers[source], biased_output(source)
        sites.append(activation_site(layer.module, role("output", layer.run), value, _way_in(value)))
    node, position = heads.mixing
    softmax = node.inputs[position]
    assert softmax is not None
    sites.append(activation_site(heads.module, role("softmax", run), softmax, ((str(node.name), position),)))
    return Unit(name=numbered(name, seen), kind="attention", sites=tuple(sites))


def _way_in(value: ir.Value) -> tuple[Edge, ...]:
    """The readers that lead to a product; whatever else reads the same tensor keeps the float."""
    uses = [use for use in value.uses() if is_scaling(use.node) or is_product(use.node)]
    return tuple((str(use.node.name), use.idx) for use in uses)


def _scores_above(value: ir.Value | None) -> ir.Node | None:
    node = None if value is None else value.producer()
    if node is None or is_product(node):
        return node
    if node.op_type in _ON_SCORES or is_layout(node):
        return next((found for v in node.inputs if (found := _scores_above(v)) is not None), None)
    return None


def _mixing_below(softmax: ir.Node) -> tuple[ir.Node, int] | None:
    value = softmax.outputs[0]
    while len(uses := list(value.uses())) == 1:
        node, position = uses[0].node, uses[0].idx
        if is_product(node):
            return node, position
        if not is_layout(node):
            return None
        value = node.outputs[0]
    return None


def _source(value: ir.Value | None) -> ir.Node | None:
    """The linear layer that a value comes from by nothing but layout and one factor for all."""
    node = None if value is None else trace_up(value, is_scaling)
    if node is not None and node.op_type == "Add":
        above = (v.producer() for v in node.inputs if v is not None)
        node = next((n for n in above if n is not None and biased_output(n) is node.outputs[0]), None)
    return node if node is not None and is_linear(node) else None


def _projection(mixing: ir.Node) -> ir.Node | None:
    value = mixing.outputs[0]
    while len(uses := list(value.uses())) == 1:
        node = uses[0].node
        if is_linear(node):
            return node
        if not is_layout(node):
            return None
        value = node.outputs[0]
    return None
