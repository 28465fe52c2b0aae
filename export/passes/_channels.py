"""Follow the output channels of layers through a graph: which of them reach which place, and which belong together.

Every output channel of every linear layer and normalisation gets a number, its label, and arrays of labels are pushed
through the ops that only move values (Reshape, Transpose, Slice, Split, ...). So it does not matter how a model splits
one projection into the queries, keys and values of its heads. Channels that an op adds to each other (rotary
positions do) can only be scaled together: they form one group.

A group may be scaled by a positive factor where everything that reads it is known: a product with another group, the
weighted sum of an attention, or the weights of a linear layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgemim.export.passes._linear import Constant, Doubles, Linear, constant, find_linear, is_constant, static_shape
from edgemim.export.passes._moves import move

Labels = npt.NDArray[np.int64]

# What reads a channel: a product of two groups, at its left or its right; an attention that sums values; the weights
# of a linear layer; anything else.
LEFT, RIGHT, SUM, WEIGHTS, OTHER = 1, 2, 4, 8, 16

# Layers that scale and shift every channel by constants, and the axis of the channels.
_AFFINE = {"BatchNormalization": 1, "LayerNormalization": -1}

# Ops with f(a x) = a f(x) for a > 0, along axes that their second input names.
_REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A layer that makes channels.

    Attributes:
        labels: Of its output channels, in order.
        weight: What its channels are multiplied by; together with `bias`, all that scales with them.
        bias: None where there is none.
        linear: None for a normalisation.
    """

    labels: Labels
    weight: Constant
    bias: Constant | None
    linear: Linear | None

    def scale(self, factors: Doubles) -> None:
        """Multiply the channels by one factor each."""
        for parameter in filter(None, (self.weight, self.bias)):
            parameter.scale(factors)


@dataclass(frozen=True, kw_only=True, eq=False)
class Product:
    """A MatMul of labelled inputs, such as the scores of an attention.

    Attributes:
        node: The MatMul.
        heads: A label of the left and one of the right group of each head, [2, heads], each pair once.
    """

    node: ir.Node
    heads: Labels


@dataclass(frozen=True, kw_only=True, eq=False)
class Channels:
    """What was found in a graph.

    Attributes:
        values: The labels of a value, an array of its shape.
        sources: In the graph's order.
        products: In the graph's order.
        readers: The linear layers with a labelled input, and the label of each input channel: of one position, where
            the groups are the same at all positions.
        groups: The group of each label, [labels].
        uses: What reads the group of each label, a sum of `LEFT` to `OTHER`, [labels].
    """

    values: Mapping[ir.Value, Labels]
    sources: Sequence[Source]
    products: Sequence[Product]
    readers: Sequence[tuple[Linear, Labels]]
    groups: Labels
    uses: Labels

    def scale(self, factors: Doubles) -> None:
        """Multiply channels by their factors, [labels], and divide the weights that read them.

        The factors are equal within a group; products and whatever else reads the groups, the caller has to think of.
        """
        for source in self.sources:
            if (factors[source.labels] != 1).any():
                source.scale(factors[source.labels])
        for linear, labels in self.readers:
            if (factors[labels] != 1).any() and linear.inputs is not None:
                linear.inputs.scale(1 / factors[labels])


def follow_channels(model: ir.Model) -> Channels:
    """Label the channels of a graph, and find their groups and what reads them."""
    tracer = _Tracer()
    for node in model.graph:
        tracer.visit(node)
    tracer.mark(model.graph.outputs, OTHER)
    return tracer.finish()


class _Tracer:
    def __init__(self) -> None:
        self.values: dict[ir.Value | None, Labels] = {}
        self.sources: list[Source] = []
        self.products: list[Product] = []
        self.reads: list[tuple[Linear, Labels]] = []
        self.uses = np.zeros(0, dtype=np.int64)
        self.pairs: list[Labels] = []

    def visit(self, node: ir.Node) -> None:
        """Label the outputs of a node, or note that it reads labelled values."""
        linear = find_linear(node)
        if linear is not None:
            if linear.input in self.values:
                self.reads.append((linear, np.moveaxis(self.values[linear.input], linear.channel_axis, -1)))
            self._add_source(linear.output, linear.channel_axis, linear.weight, linear.bias, linear)
        elif node.op_type in _AFFINE:
            self.mark(node.inputs, OTHER)
            self._visit_affine(node)
        # The Add of a bias is labelled already: it belongs to the linear layer before it.
        elif any(value in self.values for value in node.inputs) and node.outputs[0] not in self.values:
            labels = self._multiply(node) if node.op_type == "MatMul" else self._pass_on(node)
            if labels is None:
                self.mark(node.inputs, OTHER)
            else:
                self.values.update(zip(node.outputs, labels, strict=False))

    def mark(self, values: Sequence[ir.Value | None], use: int) -> None:
        for value in values:
            if value in self.values:
                self.uses[_distinct(self.values[value])] |= use

    def finish(self) -> Channels:
        groups = connected(len(self.uses), self.pairs)
        readers = []
        for linear, labels in self.reads:
            channels = labels[(0,) * (labels.ndim - 1)]
            known = linear.inputs is not None and (groups[_distinct(labels)] == groups[channels]).all()
            self.uses[_distinct(labels)] |= WEIGHTS if known else OTHER
            if known:
                readers.append((linear, channels))
        uses = np.zeros_like(self.uses)
        np.bitwise_or.at(uses, groups, self.uses)
        return Channels(
            values={value: labels for value, labels in self.values.items() if value is not None},
            sources=self.sources,
            products=self.products,
            readers=readers,
            groups=groups,
            uses=uses[groups],
        )

    def _visit_affine(self, node: ir.Node) -> None:
        axis, x = _AFFINE[node.op_type], node.inputs[0]
        last = node.op_type == "BatchNormalization" or node.attributes.get_int("axis", -1) in (-1, _rank(x) - 1)
        if last and all(is_constant(value) for value in node.inputs[1:] if value is not None):
            has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
            bias = Constant(node=node, position=2, axis=0) if has_bias else None
            self._add_source(node.outputs[0], axis, Constant(node=node, position=1, axis=0), bias, None)

    def _add_source(
        self, output: ir.Value, axis: int, weight: Constant, bias: Constant | None, linear: Linear | None
    ) -> None:
        shape = static_shape(output)
        if shape is None:
            return
        labels = np.arange(len(self.uses), len(self.uses) + shape[axis])
        self.uses = np.concatenate([self.uses, np.zeros_like(labels)])
        self.sources.append(Source(labels=labels, weight=weight, bias=bias, linear=linear))
        along = [1] * len(shape)
        along[axis] = -1
        self.values[output] = np.broadcast_to(labels.reshape(along), shape)

    def _multiply(self, node: ir.Node) -> list[Labels] | None:
        """A MatMul of two activations: what a head reads at one side becomes one group.

        The output has labels only where the left input has none, as the weights of an attention's sum.
        """
        left, right = (self.values.get(value) for value in node.inputs)
        shape = static_shape(node.outputs[0])
        if right is None or right.ndim < 2 or shape is None:
            return None
        self._unite(right, right[..., :1, :1])
        if left is None:
            self.mark(node.inputs[1:], SUM)
            return [np.broadcast_to(right[..., :1, :], shape)]
        self._unite(left, left[..., :1, :1])
        self.mark(node.inputs[:1], LEFT)
        self.mark(node.inputs[1:], RIGHT)
        self.products.append(Product(node=node, heads=_pairs(left[..., 0, 0], right[..., 0, 0])))
        return []

    def _pass_on(self, node: ir.Node) -> list[Labels] | None:
        """The labels of the outputs, None where they are not multiples of labelled channels."""
        computed = [value for value in node.inputs if value is not None and not is_constant(value)]
        labels = [self.values[value] for value in computed if value in self.values]
        if len(labels) < len(computed):
            return None
        if len(labels) == 1:
            return self._reduce(node, labels[0]) if node.op_type in _REDUCTIONS else move(node, labels[0])
        if node.op_type == "Concat" and len(labels) == len(node.inputs):
            return [np.concatenate(labels, axis=node.attributes.get_int("axis"))]
        shape = static_shape(node.outputs[0])
        if node.op_type in ("Add", "Sub") and shape is not None:
            self._unite(*labels)
            return [np.broadcast_to(labels[0], shape)]
        return None

    def _reduce(self, node: ir.Node, labels: Labels) -> list[Labels] | None:
        shape = static_shape(node.outputs[0])
        if len(node.inputs) < 2 or shape is None:
            return None
        first = labels
        for axis in constant(node.inputs[1]).reshape(-1):
            first = np.take(first, [0], axis=axis)
        self._unite(labels, first)
        return [first.reshape(shape)]

    def _unite(self, one: Labels, other: Labels) -> None:
        self.pairs.append(_pairs(one, other))


def _rank(value: ir.Value | None) -> int:
    return -1 if value is None or value.shape is None else len(value.shape)


def _distinct(labels: Labels) -> Labels:
    """Without the repetition along broadcast axes, of which a graph has many: tokens, windows."""
    return labels[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in labels.strides)]


def _pairs(one: Labels, other: Labels) -> Labels:
    """All pairs of labels at equal places of two arrays, each once, [2, pairs]."""
    a, b = np.broadcast_arrays(_distinct(one), _distinct(other))
    # One number per pair: numpy sorts these much faster than rows.
    keys = np.unique(a.reshape(-1) << 32 | b.reshape(-1))
    return np.stack([keys >> 32, keys & 0xFFFFFFFF])


def connected(count: int, pairs: Sequence[Labels]) -> Labels:
    """The smallest of the labels that a chain of `pairs`, each [2, pairs], connects each label with, [count]."""
    groups = np.arange(count)
    one, other = np.concatenate([np.zeros((2, 0), dtype=np.int64), *pairs], axis=1)
    while (groups[one] != groups[other]).any():
        smallest = np.minimum(groups[one], groups[other])
        np.minimum.at(groups, groups[one], smallest)
        np.minimum.at(groups, groups[other], smallest)
        while (groups[groups] != groups).any():
            groups = groups[groups]
    return groups
