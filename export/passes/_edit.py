"""How a pass adds nodes and constants to a graph, module names included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgemim.export.passes.module_names import inherit_module


def add_constant(graph: ir.Graph, name: str, array: npt.NDArray[Any]) -> ir.Value:
    """Register an initializer; `name` must be new in the graph."""
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    graph.register_initializer(value)
    return value


def add_scalar(graph: ir.Graph, node: ir.Node, suffix: str, number: float) -> ir.Value:
    """One constant per node, so that a pass or a quantizer which changes it changes one place."""
    dtype = node.outputs[0].dtype or ir.DataType.FLOAT
    return add_constant(graph, f"{node.name}_{suffix}", np.array(number, dtype=dtype.numpy()))


def insert_op(graph: ir.Graph, node: ir.Node, op_type: str, inputs: Sequence[ir.Value], suffix: str) -> ir.Value:
    """Insert an elementwise op before `node`, with the shape, type and module of `node`."""
    new = ir.node(op_type, inputs, name=f"{node.name}_{suffix}")
    inherit_module(new, node)
    output, like = new.outputs[0], node.outputs[0]
    output.name, output.shape, output.dtype = f"{like.name}_{suffix}", like.shape, like.dtype
    graph.insert_before(node, new)
    return output


def replace_node(graph: ir.Graph, node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None]) -> ir.Node:
    """Put another op in the place of `node`, under its name and with its output's name."""
    new = ir.node(op_type, inputs, name=node.name)
    inherit_module(new, node)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], node.outputs, new.outputs)
    return new
