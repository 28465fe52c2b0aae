"""Where a graph can be tapped: values that are the outputs of torch modules, by the modules' names.

A tap is the last value that leaves a module, or what a module computes itself before it calls a child: the
attention before its projection, the sum before a norm. So an error inside `blocks.1.attn` that belongs to no
child is found there, and not in the child that comes next. Every tap belongs to a block, such as `blocks.7`, or to
what lies beside the blocks: `patch_embed`, `norm`, `head`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgemim.export.passes.module_names import MODULE_KEY

# `layers.0.blocks.1` is a block in a stage: its numbers stand this close; `blocks.0.mlp.net.3` is a part of a block.
_NEXT_NUMBER = 2

_MULTIPLY = ("Conv", "Div", "Gemm", "MatMul", "Mul")


@dataclass(frozen=True, kw_only=True)
class Tap:
    """A value that can be compared.

    Attributes:
        module: The torch module that computes it; empty: the model itself.
        reader: The module inside that gets it; empty: it is the module's output.
        block: What it belongs to.
        value: Its name in this graph.
        shape: Fixed.
        size_bytes: Of one run.
    """

    module: str
    reader: str
    block: str
    value: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def name(self) -> str:
        """`blocks.1.mlp.fc2`, or `blocks.1.attn before proj`: the same in every flavour."""
        if not self.reader:
            return self.module
        return f"{self.module or 'the model'} before {self.reader.removeprefix(f'{self.module}.')}"


@dataclass(frozen=True, kw_only=True)
class Edge:
    """How a node hangs together with others, without its weights.

    Attributes:
        inputs, outputs: Names of values.
        has_weights: Whether it multiplies with constants that differ per channel, and so can undo a scaling.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    has_weights: bool


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What can be tapped in a graph, and how it hangs together; its weights are not kept.

    Attributes:
        taps: By name, in the graph's order, a child before its parent. Empty where the nodes carry no module names,
            or the values no fixed shapes.
        edges: One per node, in the graph's order.
    """

    taps: Mapping[str, Tap]
    edges: Sequence[Edge]

    def sources(self, names: Iterable[str]) -> dict[str, dict[str, bool]]:
        """For each of some taps, those of them that reach it without passing a third one.

        The value says whether every way from there leads through weights.
        """
        by_value: dict[str, list[str]] = {}
        for name in names:
            by_value.setdefault(self.taps[name].value, []).append(name)
        reaching: dict[str, dict[str, bool]] = {}
        found: dict[str, dict[str, bool]] = {}
        for edge in self.edges:
            before: dict[str, bool] = {}
            for value in edge.inputs:
                for name, weighted in reaching.get(value, {}).items():
                    before[name] = (weighted or edge.has_weights) and before.get(name, True)
            for value in edge.outputs:
                here = by_value.get(value, [])
                found.update(dict.fromkeys(here, before))
                reaching[value] = dict.fromkeys(here, False) or before
        return found


def read_layout(model: ir.Model) -> Layout:
    """Find the taps of a graph."""
    return Layout(taps=_read_taps(model), edges=[_edge(node) for node in model.graph])


def by_block(taps: Iterable[Tap]) -> dict[str, list[Tap]]:
    """Taps by the block they belong to; the blocks whose own output is a tap, in the order of their ends."""
    taps = list(taps)
    found: dict[str, list[Tap]] = {}
    for tap in taps:
        found.setdefault(tap.block, []).append(tap)
    return {tap.name: found[tap.name] for tap in taps if tap.name == tap.block}


def in_chunks(taps: Sequence[Tap], budget_bytes: int) -> list[list[Tap]]:
    """Taps in their order, as many at a time as fit into the budget, at least one."""
    chunks: list[list[Tap]] = []
    room = 0
    for tap in taps:
        if not chunks or tap.size_bytes > room:
            chunks.append([])
            room = budget_bytes
        chunks[-1].append(tap)
        room -= tap.size_bytes
    return chunks


def _read_taps(model: ir.Model) -> dict[str, Tap]:
    containers = _containers({_module(node) for node in model.graph})
    last: dict[tuple[str, str], tuple[int, ir.Value]] = {}
    for position, node in enumerate(model.graph):
        for value in node.outputs:
            for key in _keys(_module(node), value, containers):
                last[key] = position, value
    ordered = sorted(last.items(), key=lambda item: (item[1][0], -item[0][0].count("."), item[0]))
    found = {}
    for (module, reader), (_, value) in ordered:
        tap = _tap(module, reader, _block(reader or module, containers), value)
        if tap is not None:
            found[tap.name] = tap
    return found


def _edge(node: ir.Node) -> Edge:
    inputs = [value for value in node.inputs if value is not None]
    constants = (value.const_value for value in inputs if value.const_value is not None)
    return Edge(
        inputs=tuple(str(value.name) for value in inputs),
        outputs=tuple(str(value.name) for value in node.outputs),
        has_weights=node.op_type in _MULTIPLY and any(constant.size > 1 for constant in constants),
    )


def _module(node: ir.Node) -> str:
    return str(node.metadata_props.get(MODULE_KEY, ""))


def _keys(module: str, value: ir.Value, containers: Collection[str]) -> Iterator[tuple[str, str]]:
    """Module and reader of every tap that this value of `module` may be; a later value of the same takes its place."""
    readers = [_module(use.node) for use in value.uses()]
    for outer in _with_parents(module):
        leaves = value.is_graph_output() or not all(_is_inside(reader, outer) for reader in readers)
        if leaves and outer not in containers:
            yield outer, ""
    for reader in readers:
        if reader != module and _is_inside(reader, module):
            yield module, _child(reader, module, containers)


def _with_parents(module: str) -> Iterator[str]:
    """`a.b.c`, `a.b`, `a`."""
    while module:
        yield module
        module = module.rpartition(".")[0]


def _is_inside(module: str, outer: str) -> bool:
    return not outer or module == outer or module.startswith(f"{outer}.")


def _child(module: str, outer: str, containers: Collection[str]) -> str:
    """The first module on the way from `outer` to `module` that is no container."""
    inner = [name for name in _with_parents(module) if name != outer and _is_inside(name, outer)]
    return next((name for name in reversed(inner) if name not in containers), module)


def _block(module: str, containers: Collection[str]) -> str:
    return _child(module, "", containers)


def _containers(modules: Collection[str]) -> set[str]:
    """What holds blocks: `blocks`, `stages`, `stages.1`."""
    with_parts = {outer for name in modules for outer in _with_parents(name) if outer != name}
    blocks = {name for name in with_parts if _ends_in_number(name)}
    return {outer for name in blocks for outer in _with_parents(name) if outer != name}


def _ends_in_number(name: str) -> bool:
    """Whether this is a block or a stage, by its name; numbers too far apart are those of a part of a block."""
    parts = name.split(".")
    numbers = [position for position, part in enumerate(parts) if part.isdigit()]
    near = all(right - left <= _NEXT_NUMBER for left, right in itertools.pairwise(numbers))
    return parts[-1].isdigit() and near


def _tap(module: str, reader: str, block: str, value: ir.Value) -> Tap | None:
    if value.shape is None or not value.shape.is_static() or value.dtype is None:
        return None
    if not value.dtype.is_floating_point():
        return None
    shape = tuple(int(size) for size in value.shape.numpy())
    size = math.prod(shape) * math.ceil(value.dtype.itemsize)
    return Tap(module=module, reader=reader, block=block, value=str(value.name), shape=shape, size_bytes=size)
