"""Residual additions: where a branch with layers meets the tensor that went around it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx_ir as ir

from edgemim.quantize.nodes import activations, carries, is_convolution, is_linear, module_name, shape_of, trace_up
from edgemim.quantize.placement._layers import activation_site, numbered, role
from edgemim.quantize.sites import Site

_RELUS = ("Relu", "Clip")


@dataclass(frozen=True, kw_only=True)
class Join:
    """One residual addition.

    Attributes:
        node: The Add.
        module: The torch module it belongs to.
        run: How many the module had before.
        name: Of its unit.
        skip: Position of the input that went around; the other one ends in a layer.
    """

    node: ir.Node
    module: str
    run: int
    name: str
    skip: int

    @property
    def feeds_relu(self) -> bool:
        """Whether a ReLU (or its clipped form) reads the sum."""
        return any(use.node.op_type in _RELUS for use in self.node.outputs[0].uses())

    def site(self, position: int) -> Site:
        """One of the two inputs, with the role `skip` or `branch`."""
        value = self.node.inputs[position]
        assert value is not None
        name = role("skip" if position == self.skip else "branch", self.run)
        return activation_site(self.module, name, value, ((str(self.node.name), position),))


def joins(graph: ir.Graph) -> list[Join]:
    """Every residual addition, in the graph's order.

    The branch is the input behind more nodes; from the layer at its end come nothing but constants and layout.
    A sum of two forms of the same layer's output (RoPE) is none.
    """
    depths = _depths(graph)
    runs: Counter[str] = Counter()
    names: Counter[str] = Counter()
    found = []
    for node in graph:
        skip = _skip(node, depths)
        if skip is not None:
            module = module_name(node)
            name = numbered(f"{module}.add" if module else "add", names)
            found.append(Join(node=node, module=module, run=runs[module], name=name, skip=skip))
            runs[module] += 1
    return found


def _skip(node: ir.Node, depths: dict[ir.Node, int]) -> int | None:
    if node.op_type != "Add" or len(activations(node)) != 2:
        return None
    left, right = node.inputs
    assert left is not None
    assert right is not None
    if not shape_of(left) == shape_of(right) == shape_of(node.outputs[0]):
        return None
    makers = left.producer(), right.producer()
    skip = 0 if _depth(makers[0], depths) < _depth(makers[1], depths) else 1
    ends = trace_up(left, carries), trace_up(right, carries)
    end = ends[1 - skip]
    is_branch = end is not None and (is_linear(end) or is_convolution(end)) and ends[0] is not ends[1]
    return skip if is_branch else None


def _depths(graph: ir.Graph) -> dict[ir.Node, int]:
    """The longest way from the graph's inputs to each node."""
    depths: dict[ir.Node, int] = {}
    for node in graph:
        depths[node] = 1 + max((_depth(value.producer(), depths) for value in activations(node)), default=0)
    return depths


def _depth(node: ir.Node | None, depths: dict[ir.Node, int]) -> int:
    return 0 if node is None else depths[node]
