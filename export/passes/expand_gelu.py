"""Write `Gelu` out as elementwise ops: it is an op only since opset 20, and TensorRT 8.6 does not know it.

The order of the ops is the one that ONNX Runtime, OpenVINO and TensorRT recognise and fuse again.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from edgemim.export.passes._edit import add_scalar, insert_op, replace_node


def expand_gelu(model: ir.Model) -> ir.Model:
    """Replace every `Gelu`, exact (erf) or approximate (tanh)."""
    for node in list(model.graph):
        if node.op_type == "Gelu" and node.domain == "":
            _expand(model.graph, node)
    return model


def _expand(graph: ir.Graph, node: ir.Node) -> None:
    x = node.inputs[0]
    assert x is not None
    if node.attributes.get_string("approximate", "none") == "tanh":
        cube = insert_op(graph, node, "Mul", [x, insert_op(graph, node, "Mul", [x, x], "square")], "cube")
        bent = insert_op(graph, node, "Mul", [cube, add_scalar(graph, node, "bend", 0.044715)], "bent")
        inner = insert_op(graph, node, "Add", [x, bent], "sum")
        argument = insert_op(
            graph, node, "Mul", [inner, add_scalar(graph, node, "scale", math.sqrt(2 / math.pi))], "scaled"
        )
        curve = insert_op(graph, node, "Tanh", [argument], "tanh")
    else:
        argument = insert_op(graph, node, "Div", [x, add_scalar(graph, node, "sqrt2", math.sqrt(2))], "scaled")
        curve = insert_op(graph, node, "Erf", [argument], "erf")
    gate = insert_op(graph, node, "Add", [curve, add_scalar(graph, node, "one", 1.0)], "gate")
    gated = insert_op(graph, node, "Mul", [x, gate], "gated")
    replace_node(graph, node, "Mul", [gated, add_scalar(graph, node, "half", 0.5)])
