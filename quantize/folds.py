"""Where factors per channel can move from a layer into the layers that read it, with the same outputs.

A LayerNormalization, or a linear layer, may divide its channels by factors of their own if every reader of them is a
linear layer, which multiplies its weights by the same factors. What lies between may move values, apply one factor to
all of them, a ReLU, or an attention, whose weighted sums keep the channels of the values apart.

Channels are followed by labels: every channel of every source gets a number, and arrays of numbers go through the ops
in place of the values. So it does not matter how a model cuts one projection into queries, keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from edgemim.quantize.nodes import (
    LAYOUT,
    biased_output,
    constant,
    is_linear,
    is_product,
    is_scaling,
    output_axis,
    shape_of,
)
from edgemim.quantize.weights import is_private, scale_constant

Labels = npt.NDArray[np.int32]
Doubles = npt.NDArray[np.float64]

_SAME = ("Cast", "Identity", "Relu")


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """A linear layer that reads channels of a source.

    Attributes:
        node: Its second input is the weight, which nothing else reads.
        channels: int32 [C_in], the channel of the source that each input channel is.
    """

    node: ir.Node
    channels: Labels


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """A source and all that reads it.

    Attributes:
        source: A LayerNormalization or a linear layer.
        readers: At least one.
        free: bool [C], which channels of the source nothing but the readers reads.
    """

    source: ir.Node
    readers: tuple[Reader, ...]
    free: npt.NDArray[np.bool_]

    def divide(self, factors: Doubles) -> None:
        """Divide the source's channels by `factors`, [C] and above 0, and multiply the weights that read them.

        Raises:
            ValueError: A channel that is not free has a factor other than 1.
        """
        if (factors[~self.free] != 1).any():
            raise ValueError(f"something else reads channels of {self.source.name}")
        for reader in self.readers:
            scale_constant(reader.node, 1, factors[reader.channels], axis=1 - output_axis(reader.node))
        for node, position, axis in _parameters(self.source):
            scale_constant(node, position, 1 / factors, axis=axis)


def find_folds(graph: ir.Graph) -> list[Fold]:
    """Every source with a channel that is free, in the graph's order; the graph stays as it is.

    Args:
        graph: With fixed shapes.
    """
    walk = _Walk(graph)
    for node in graph:
        walk.step(node)
    return walk.folds()


@dataclass(kw_only=True, eq=False)
class _Source:
    node: ir.Node
    start: int
    channels: int
    readers: list[Reader] = field(default_factory=list)


class _Walk:
    """Carries labels through one graph, node by node."""

    def __init__(self, graph: ir.Graph) -> None:
        self._sources: list[_Source] = []
        start = 0
        for node in graph:
            channels = _channels(node)
            if channels:
                self._sources.append(_Source(node=node, start=start, channels=channels))
                start += channels
        self._source_of = {source.node: source for source in self._sources}
        self._starts = [source.start for source in self._sources]
        self._blocked = np.zeros(start, dtype=bool)
        self._labels: dict[ir.Value, Labels] = {}

    def step(self, node: ir.Node) -> None:
        """The next node in the graph's order."""
        labelled = [position for position, value in enumerate(node.inputs) if value in self._labels]
        if labelled and not self._passes(node, labelled):
            for position in labelled:
                self._block(self._of(node, position))
        source = self._source_of.get(node)
        if source is not None:
            value = node.outputs[0] if node.op_type == "LayerNormalization" else biased_output(node)
            numbers = np.arange(source.start, source.start + source.channels, dtype=np.int32)
            self._labels[value] = np.broadcast_to(numbers, shape_of(value))

    def folds(self) -> list[Fold]:
        """What was found, after the last node."""
        for value, labels in self._labels.items():
            if value.is_graph_output():
                self._block(labels)
        found = []
        for source in self._sources:
            free = ~self._blocked[source.start : source.start + source.channels]
            readers = tuple(reader for reader in source.readers if free[reader.channels].any())
            read = np.zeros(source.channels, dtype=bool)
            for reader in readers:
                read[reader.channels] = True
            if (free & read).any():
                found.append(Fold(source=source.node, readers=readers, free=free & read))
        return found

    def _of(self, node: ir.Node, position: int) -> Labels:
        value = node.inputs[position]
        assert value is not None
        return self._labels[value]

    def _block(self, labels: Labels) -> None:
        self._blocked[labels.reshape(-1)] = True

    def _passes(self, node: ir.Node, labelled: Sequence[int]) -> bool:
        """Whether factors on what the node reads are factors on what it gives, or stop at its weights."""
        if is_linear(node):
            return list(labelled) == [0] and self._read(node, self._of(node, 0))
        if is_product(node):
            return len(labelled) == 1 and self._mix(node, labelled[0])
        if node.op_type == "Concat":
            return len(labelled) == len(node.inputs) and self._move(node)
        if node.op_type in LAYOUT and list(labelled) == [0]:
            return self._keep(node) if node.op_type in _SAME else self._move(node)
        if node.op_type == "Relu" or (is_scaling(node) and not (node.op_type == "Div" and 1 in labelled)):
            return self._keep(node)
        return False

    def _read(self, node: ir.Node, labels: Labels) -> bool:
        channels = labels.reshape(-1, labels.shape[-1])
        source = self._sources[np.searchsorted(self._starts, channels[0, 0], side="right") - 1]
        own = channels[0] - source.start
        if (channels != channels[0]).any() or own.min() < 0 or own.max() >= source.channels:
            return False
        if not is_private(node.inputs[1]) or (node.op_type == "Gemm" and node.attributes.get_int("transA", 0)):
            return False
        source.readers.append(Reader(node=node, channels=own))
        return True

    def _mix(self, node: ir.Node, position: int) -> bool:
        """Sums over other positions of one channel; the weights of the sum come from the other input."""
        labels = self._of(node, position)
        summed = -2 if position == 1 else -1
        if labels.ndim < 2:
            return False
        first = labels.take([0], axis=summed)
        if (labels != first).any():
            return False
        self._labels[node.outputs[0]] = np.broadcast_to(first, shape_of(node.outputs[0]))
        return True

    def _keep(self, node: ir.Node) -> bool:
        labels = next(self._labels[value] for value in node.inputs if value in self._labels)
        self._labels[node.outputs[0]] = np.broadcast_to(labels, shape_of(node.outputs[0]))
        return True

    def _move(self, node: ir.Node) -> bool:
        given = {}
        for value in filter(None, node.inputs):
            array = self._labels.get(value)
            given[value.name] = constant(value) if array is None else array
        if any(array is None for array in given.values()):
            return False
        moved = ReferenceEvaluator(ir.to_proto(node)).run(None, given)
        self._labels.update(zip(node.outputs, moved, strict=True))
        return True


def _channels(node: ir.Node) -> int:
    """How many channels a source has; 0 for what is none."""
    if node.op_type == "LayerNormalization":
        scale = constant(node.inputs[1])
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if scale is None or scale.ndim != 1 or (bias is not None and constant(bias) is None):
            return 0
        return len(scale)
    if is_linear(node) and is_private(node.inputs[1]):
        width = shape_of(node.outputs[0])[-1]
        biases = [constant(owner.inputs[position]) for owner, position, _ in _parameters(node)[1:]]
        return width if all(bias is not None and bias.shape[-1:] == (width,) for bias in biases) else 0
    return 0


def _parameters(source: ir.Node) -> list[tuple[ir.Node, int, int]]:
    """Every constant that scales with the channels: node, position of the input, axis of the channels."""
    if source.op_type == "LayerNormalization":
        return [
            (source, position, 0) for position in (1, 2) if position < len(source.inputs) and source.inputs[position]
        ]
    found = [(source, 1, output_axis(source))]
    if len(source.inputs) > 2 and source.inputs[2] is not None:
        found.append((source, 2, -1))
    output = biased_output(source)
    if output is not source.outputs[0]:
        add = output.producer()
        assert add is not None
        found.append((add, 1 if add.inputs[0] is source.outputs[0] else 0, -1))
    return found
