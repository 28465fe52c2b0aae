"""Bake float16 into a graph of opset 20, with the islands that compute in float32.

Strongly typed TensorRT takes every type from the graph: what is float32 there is computed in float32, the rest in
float16, and only a Cast stands between.

* Weights are rounded once, to the nearest float16, from float32. One that is read in both types is kept in both.
* `LayerNormalization` stays one node; its scale and bias have the type of its input, as TensorRT demands. It
  computes mean and variance in float32 by definition (`stash_type`).
* Inputs and outputs of the graph stay float32, with a Cast behind or before them: all flavours of one artifact take
  and return the same arrays, and a report compares like with like. The pixel input replaces the first Cast.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from edgemim.export.passes._edit import add_constant
from edgemim.export.passes._float_types import FLOATS, is_float, is_float32_by_definition, set_float
from edgemim.export.passes.module_names import inherit_module

_SUFFIX = {ir.DataType.FLOAT: "fp32", ir.DataType.FLOAT16: "fp16"}


def to_half(model: ir.Model, islands: Collection[ir.Node]) -> ir.Model:
    """Make every float32 value float16, except in the islands.

    Args:
        model: A float32 graph of opset 20 whose constants are initializers.
        islands: Nodes of this graph that stay in float32, as `find_islands` chooses them; with none, values can
            overflow.
    """
    conversion = _Conversion(model.graph, islands)
    conversion.round_constants()
    for node in list(model.graph):
        conversion.convert(node)
    for position, value in enumerate(model.graph.outputs):
        if value.dtype == ir.DataType.FLOAT16:
            model.graph.outputs[position] = _widen_output(model.graph, value)
    return model


class _Conversion:
    def __init__(self, graph: ir.Graph, islands: Collection[ir.Node]) -> None:
        self._graph = graph
        self._islands = frozenset(islands)
        # Constants that are needed in both types, by the float32 one.
        self._rounded: dict[ir.Value, ir.Value] = {}
        # One Cast per value and type, however many nodes read it.
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def round_constants(self) -> None:
        for value in list(self._graph.initializers.values()):
            wanted = {self._wanted(use.node, use.idx) for use in value.uses()}
            if value.dtype != ir.DataType.FLOAT or ir.DataType.FLOAT16 not in wanted:
                continue
            assert value.const_value is not None
            assert value.name is not None
            with np.errstate(over="ignore"):
                half = value.const_value.numpy().astype(np.float16)
            if ir.DataType.FLOAT in wanted:
                self._rounded[value] = add_constant(self._graph, f"{value.name}_fp16", half)
            else:
                value.const_value = ir.tensor(half, name=value.name)
                set_float(value, ir.DataType.FLOAT16)

    def convert(self, node: ir.Node) -> None:
        """Give a node its inputs in the type it computes in, and mark its outputs."""
        own = self._own(node)
        if node.op_type == "Cast":
            if node.attributes.get_int("to", 0) in FLOATS:
                node.attributes["to"] = ir.AttrInt64("to", own.value)
        else:
            for position, value in enumerate(node.inputs):
                if value is not None and is_float(value):
                    node.replace_input_with(position, self._read(value, self._wanted(node, position), node))
        for value in node.outputs:
            if is_float(value):
                set_float(value, own)

    def _own(self, node: ir.Node) -> ir.DataType:
        return ir.DataType.FLOAT if node in self._islands else ir.DataType.FLOAT16

    def _wanted(self, node: ir.Node, position: int) -> ir.DataType:
        return ir.DataType.FLOAT if is_float32_by_definition(node, position) else self._own(node)

    def _read(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        """The value in the wanted type; a Cast belongs to the module of the float32 side."""
        if value.dtype == dtype:
            return value
        if value in self._rounded:
            return self._rounded[value]
        if (value, dtype) not in self._casts:
            producer = value.producer()
            owner = reader if dtype == ir.DataType.FLOAT or producer is None else producer
            name = f"{value.name}_{_SUFFIX[dtype]}"
            cast = _cast(value, dtype, owner, name=name, node_name=f"node_{name}")
            self._graph.insert_before(reader, cast)
            self._casts[value, dtype] = cast.outputs[0]
        return self._casts[value, dtype]


def _cast(value: ir.Value, dtype: ir.DataType, owner: ir.Node, *, name: str, node_name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": dtype.value}, name=node_name)
    inherit_module(node, owner)
    output = node.outputs[0]
    output.name, output.shape, output.dtype = name, value.shape, dtype
    return node


def _widen_output(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A float32 output under the old name."""
    producer, name = value.producer(), value.name
    assert producer is not None
    assert name is not None
    value.name = f"{name}_fp16"
    cast = _cast(value, ir.DataType.FLOAT, producer, name=name, node_name=f"node_{name}_fp32")
    graph.append(cast)
    return cast.outputs[0]
