"""Put the torch module that a node came from into its metadata, under the key `edgemim.module`.

The value is the name that `torch.nn.Module.get_submodule` takes (`blocks.3.attn.qkv`; the empty string is the
model itself), read from the exporter's `pkg.torch.onnx.name_scopes`: the scopes from the model down to the
operator. A node that an optimizer made carries no scopes; it gets the name of the node it feeds, else of the
node that feeds it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

import onnx_ir as ir

MODULE_KEY = "edgemim.module"
SCOPES_KEY = "pkg.torch.onnx.name_scopes"


def module_names(model: ir.Model) -> ir.Model:
    """Name the torch module of every node that can be traced to one."""
    nodes = list(model.graph)
    for node in nodes:
        scopes = node.metadata_props.get(SCOPES_KEY)
        if MODULE_KEY not in node.metadata_props and scopes is not None:
            node.metadata_props[MODULE_KEY] = _module(scopes)
    for node in reversed(nodes):
        _adopt(node, (use.node for output in node.outputs for use in output.uses()))
    for node in nodes:
        _adopt(node, (value.producer() for value in node.inputs if value is not None))
    return model


def inherit_module(node: ir.Node, source: ir.Node) -> None:
    """Give a node that a pass adds the module name of the node it stands for."""
    if MODULE_KEY in source.metadata_props:
        node.metadata_props[MODULE_KEY] = source.metadata_props[MODULE_KEY]


def describe(node: ir.Node) -> str:
    """`op 'Mish' of module 'blocks.0.mlp.act'`, for messages."""
    module = node.metadata_props.get(MODULE_KEY)
    where = f"module {module!r}" if module else "the model itself" if module == "" else f"node {node.name!r}"
    return f"op {node.op_type!r} of {where}"


def _module(scopes: str) -> str:
    names = ast.literal_eval(scopes)
    return str(names[-2]) if len(names) > 1 else ""


def _adopt(node: ir.Node, neighbours: Iterable[ir.Node | None]) -> None:
    if MODULE_KEY in node.metadata_props:
        return
    for neighbour in neighbours:
        if neighbour is not None and MODULE_KEY in neighbour.metadata_props:
            inherit_module(node, neighbour)
            return
