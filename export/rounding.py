"""What an fp16 graph computes where every value really is float16.

ONNX Runtime's CPU kernels compute in float32. Around a float16 op it puts casts, and then takes pairs of them out
again, so that a value too large for float16 passes unseen. Here the same graph is written in float32 with a cast to
float16 and back behind every op, which ONNX Runtime keeps: each op sees rounded inputs, adds up in float32 and
rounds its result, as tensor cores do.
"""

from __future__ import annotations

import onnx_ir as ir

from edgemim.export.passes._float_types import MOVES, set_float
from edgemim.export.passes.module_names import inherit_module


def round_every_value(model: ir.Model) -> ir.Model:
    """A float32 copy of an fp16 graph that rounds wherever the graph is float16."""
    twin = model.clone()
    for value in twin.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT16:
            assert value.const_value is not None
            value.const_value = ir.tensor(value.const_value.numpy().astype("float32"), name=value.name)
            set_float(value, ir.DataType.FLOAT)
    rounded: dict[ir.Value, ir.Value] = {}
    for node in list(twin.graph):
        for position, value in enumerate(node.inputs):
            if value in rounded:
                node.replace_input_with(position, rounded[value])
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT16:
                rounded[value] = _round(twin.graph, node, value)
    return twin


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value) -> ir.Value:
    """The float32 value that stands for a float16 one."""
    last = node
    if node.op_type != "Cast":
        set_float(value, ir.DataType.FLOAT)
        if node.op_type in MOVES:
            return value
        last = _cast(graph, last, value, ir.DataType.FLOAT16)
    return _cast(graph, last, last.outputs[0], ir.DataType.FLOAT).outputs[0]


def _cast(graph: ir.Graph, after: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], {"to": dtype.value}, name=f"{value.name}_to_{dtype.name}")
    inherit_module(node, after)
    output = node.outputs[0]
    output.name, output.shape, output.dtype = f"{value.name}_{dtype.name}", value.shape, dtype
    graph.insert_after(after, node)
    return node
