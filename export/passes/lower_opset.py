"""Rewrite a graph of the exporter's opset (18 to 20) in opset 17, the newest that TensorRT 8.6 parses.

The exporter itself cannot do this: asked for opset 17 it returns 18 for many models, and drops the node
metadata. Three kinds of change were made after 17:

* inputs and attributes that moved: `Reduce*` axes, `Pad` axes, `Split` num_outputs (rewritten here);
* new attributes whose default is the old behaviour (`saturate`, `antialias`, ... : dropped);
* new ops and new meanings: refused by name (`Gelu` has a pass of its own).

The ONNX schemas say what opset 17 knows, so that a later change cannot slip through.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from edgemim.errors import EdgemimError
from edgemim.export.passes._edit import add_constant, replace_node
from edgemim.export.passes.module_names import describe

OPSET = 17
# The newest file format of opset 17's time; readers of that age refuse a newer one.
IR_VERSION = 8

_REDUCE = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")

# Values that an attribute of opset 17 does not take, although the attribute itself is there.
_NEW_VALUES = {
    ("GridSample", "mode"): {"linear", "cubic"},
    ("Pad", "mode"): {"wrap"},
    ("Resize", "coordinate_transformation_mode"): {"half_pixel_symmetric"},
    ("ScatterElements", "reduction"): {"max", "min"},
    ("ScatterND", "reduction"): {"max", "min"},
}


def lower_opset(model: ir.Model) -> ir.Model:
    """Rewrite every node in opset 17; a model that is there already is only checked.

    Raises:
        EdgemimError: An op, an attribute or a value that opset 17 lacks; the message names op and module.
    """
    opset = model.opset_imports[""]
    for node in list(model.graph):
        if node.domain not in ("", "ai.onnx"):
            raise EdgemimError(f"{describe(node)} is not a standard ONNX op (domain {node.domain!r}); {_CURE}")
        if opset > OPSET and node.op_type in _REWRITES:
            _REWRITES[node.op_type](model.graph, node)
    for node in model.graph:
        _fit_schema(node, opset)
    model.opset_imports.clear()
    model.opset_imports[""] = OPSET
    model.ir_version = IR_VERSION
    return model


_CURE = "replace that layer in the model, or tell us which backbone has it"


def _lower_reduce(graph: ir.Graph, node: ir.Node) -> None:
    """`Reduce*` of opset 18 takes the axes as an input, of 17 as an attribute."""
    axes = _constant(node, 1, "axes")
    if not axes and node.attributes.get_int("noop_with_empty_axes", 0):
        replace_node(graph, node, "Identity", [node.inputs[0]])
        return
    node.resize_inputs(1)
    if axes:
        node.attributes["axes"] = ir.AttrInt64s("axes", axes)
    node.attributes.pop("noop_with_empty_axes", None)


def _lower_pad(graph: ir.Graph, node: ir.Node) -> None:
    """`Pad` of opset 18 may name the axes that it pads; 17 wants amounts for all of them."""
    axes = _constant(node, 3, "axes")
    pads = _constant(node, 1, "pads")
    if len(node.inputs) < 4:
        return
    if axes:
        rank = len(_shape(node, 0))
        full = [0] * (2 * rank)
        for place, axis in enumerate(axes):
            full[axis % rank], full[axis % rank + rank] = pads[place], pads[place + len(axes)]
        node.replace_input_with(1, add_constant(graph, f"{node.name}_pads", np.array(full, dtype=np.int64)))
    node.resize_inputs(3)


def _lower_split(graph: ir.Graph, node: ir.Node) -> None:
    """`Split` of 18 counts its outputs and may make the last one smaller; 17 splits evenly or by sizes."""
    count = node.attributes.pop("num_outputs", None)
    if count is None or (len(node.inputs) > 1 and node.inputs[1] is not None):
        return
    axis = node.attributes.get_int("axis", 0)
    length = _shape(node, 0)[axis]
    parts = len(node.outputs)
    if length % parts == 0:
        return
    size = math.ceil(length / parts)
    sizes = np.array([size] * (parts - 1) + [length - size * (parts - 1)], dtype=np.int64)
    node.resize_inputs(2)
    node.replace_input_with(1, add_constant(graph, f"{node.name}_sizes", sizes))


_REWRITES: dict[str, Callable[[ir.Graph, ir.Node], None]] = {
    **{f"Reduce{name}": _lower_reduce for name in _REDUCE},
    "Pad": _lower_pad,
    "Split": _lower_split,
}


def _fit_schema(node: ir.Node, opset: int) -> None:
    """Drop attributes that opset 17 lacks where they say what 17 does anyway; refuse what it cannot say."""
    if not _is_known(node.op_type, OPSET):
        raise EdgemimError(f"{describe(node)} came after ONNX opset {OPSET}, which TensorRT 8.6 needs; {_CURE}")
    old = onnx.defs.get_schema(node.op_type, OPSET, "")
    new = onnx.defs.get_schema(node.op_type, opset, "")
    if len(node.inputs) > old.max_input:
        raise EdgemimError(f"{describe(node)} has inputs that ONNX opset {OPSET} lacks; {_CURE}")
    for name, attribute in list(node.attributes.items()):
        value = _plain(attribute.value)
        if name not in old.attributes:
            if not _is_default(new, name, value):
                raise EdgemimError(f"{describe(node)} has {name}={value!r}, new after ONNX opset {OPSET}; {_CURE}")
            node.attributes.pop(name)
        elif value in _NEW_VALUES.get((node.op_type, name), ()):
            raise EdgemimError(f"{describe(node)} has {name}={value!r}, new after ONNX opset {OPSET}; {_CURE}")


def _is_known(op_type: str, opset: int) -> bool:
    try:
        onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return False
    return True


def _is_default(schema: Any, name: str, value: Any) -> bool:
    if name not in schema.attributes:
        return False
    default = schema.attributes[name].default_value
    if default.type == onnx.AttributeProto.UNDEFINED:
        # Only the dilations of the pooling ops have no default: all ones when left out.
        return name == "dilations" and set(value) == {1}
    return bool(_plain(onnx.helper.get_attribute_value(default)) == value)


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _constant(node: ir.Node, position: int, what: str) -> list[int]:
    """The integers of a constant input, empty when the input is not there."""
    value = node.inputs[position] if len(node.inputs) > position else None
    if value is None:
        return []
    if value.const_value is None:
        raise EdgemimError(f"{describe(node)} computes its {what} from the image; ONNX opset {OPSET} needs constants")
    return [int(i) for i in value.const_value.numpy().reshape(-1)]


def _shape(node: ir.Node, position: int) -> tuple[int, ...]:
    value = node.inputs[position]
    if value is None or value.shape is None or not value.shape.is_static():
        raise EdgemimError(f"{describe(node)} has no static shape; export with fixed shapes")
    return tuple(int(size) for size in value.shape.numpy())
