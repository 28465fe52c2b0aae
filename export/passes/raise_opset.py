"""Rewrite a graph of the exporter's opset (17 to 20) in opset 20, the one of the fp16 flavour.

TensorRT reads it since 10.0. It is the first opset with `Gelu` as one op, and from opset 19 on `QuantizeLinear`
takes float16 scales, which an INT8 variant of the flavour needs. The changes on the way:

* attributes that became inputs: `Reduce*` axes (18), the axis of `DFT` (20);
* `Split` says how many parts it makes (18);
* `GridSample` has other names for its modes (20).

All else that opset 17 says means the same in 20; the ONNX schemas are asked about every node.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

from edgemim.errors import EdgemimError
from edgemim.export.passes._edit import add_constant
from edgemim.export.passes.module_names import describe

RAISED_OPSET = 20
# The file format of opset 20's time.
RAISED_IR_VERSION = 9

_OLDEST = 17

_REDUCE = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_GRID_MODES = {"bilinear": "linear", "bicubic": "cubic"}


def raise_opset(model: ir.Model) -> ir.Model:
    """Rewrite every node in opset 20; a model that is there already is only checked.

    Raises:
        EdgemimError: The graph is of an opset outside 17 to 20, or has an op, an attribute or an input that opset 20
            lacks; the message names op and module.
    """
    opset = model.opset_imports[""]
    if not _OLDEST <= opset <= RAISED_OPSET:
        raise EdgemimError(
            f"the graph uses ONNX opset {opset}; an fp16 flavour is made from {_OLDEST} to {RAISED_OPSET}: "
            "export with another torch version"
        )
    for node in list(model.graph):
        if node.domain not in ("", "ai.onnx"):
            raise EdgemimError(f"{describe(node)} is not a standard ONNX op (domain {node.domain!r}); {_CURE}")
        if opset < RAISED_OPSET and node.op_type in _REWRITES:
            _REWRITES[node.op_type](model.graph, node)
    for node in model.graph:
        _check_schema(node)
    model.opset_imports.clear()
    model.opset_imports[""] = RAISED_OPSET
    model.ir_version = RAISED_IR_VERSION
    return model


_CURE = "replace that layer in the model, or tell us which backbone has it"


def _raise_reduce(graph: ir.Graph, node: ir.Node) -> None:
    """`Reduce*` of opset 17 has its axes as an attribute."""
    axes = node.attributes.pop("axes", None)
    if axes is not None:
        _append_input(graph, node, 1, "axes", np.array(axes.as_ints(), dtype=np.int64))


def _raise_split(graph: ir.Graph, node: ir.Node) -> None:
    """`Split` of opset 17 without sizes makes as many equal parts as it has outputs."""
    has_sizes = len(node.inputs) > 1 and node.inputs[1] is not None
    if not has_sizes and "num_outputs" not in node.attributes:
        node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))


def _raise_grid_sample(graph: ir.Graph, node: ir.Node) -> None:
    mode = node.attributes.get_string("mode", "bilinear")
    assert mode is not None
    node.attributes["mode"] = ir.AttrString("mode", _GRID_MODES.get(mode, mode))


def _raise_dft(graph: ir.Graph, node: ir.Node) -> None:
    """The axis of `DFT` is an attribute before opset 20, 1 when left out; then an input, -2 when left out."""
    if len(node.inputs) < 3:
        axis = node.attributes.pop("axis", None)
        _append_input(graph, node, 2, "axis", np.array(1 if axis is None else axis.as_int(), dtype=np.int64))


def _append_input(graph: ir.Graph, node: ir.Node, position: int, name: str, array: np.ndarray) -> None:
    node.resize_inputs(position + 1)
    node.replace_input_with(position, add_constant(graph, f"{node.name}_{name}", array))


_REWRITES: dict[str, Callable[[ir.Graph, ir.Node], None]] = {
    **{f"Reduce{name}": _raise_reduce for name in _REDUCE},
    "DFT": _raise_dft,
    "GridSample": _raise_grid_sample,
    "Split": _raise_split,
}


def _check_schema(node: ir.Node) -> None:
    """Refuse what opset 20 does not know."""
    try:
        schema = onnx.defs.get_schema(node.op_type, RAISED_OPSET, "")
    except onnx.defs.SchemaError as error:
        raise EdgemimError(f"{describe(node)} is not in ONNX opset {RAISED_OPSET}; {_CURE}") from error
    unknown = sorted(set(node.attributes) - set(schema.attributes))
    if schema.deprecated or unknown or len(node.inputs) > schema.max_input:
        what = f"has {', '.join(unknown)}, unknown in" if unknown else "has another form in"
        raise EdgemimError(f"{describe(node)} {what} ONNX opset {RAISED_OPSET}; {_CURE}")
