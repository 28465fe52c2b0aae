"""Which inputs and outputs of an ONNX op may be float16: the schemas of opset 20 are asked."""

from __future__ import annotations

from functools import cache

import onnx
import onnx_ir as ir

from edgemim.export.passes.raise_opset import RAISED_OPSET

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)

# Ops that move numbers without changing them.
MOVES = frozenset(
    {
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Pad",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)


def is_float(value: ir.Value | None) -> bool:
    """Whether a value is float32 or float16."""
    return value is not None and value.dtype in FLOATS


def set_float(value: ir.Value, dtype: ir.DataType) -> None:
    """Change a value's type. A clone of a graph shares its type objects with the original: they must not be changed."""
    value.type = ir.TensorType(dtype)


def is_float32_by_definition(node: ir.Node, position: int) -> bool:
    """Whether an input is float32 whatever the op's own type is, such as the scales of `Resize`."""
    inputs, _ = _kinds(node.op_type)
    return _at(inputs, position) == "float32"


def has_float16_form(node: ir.Node) -> bool:
    """Whether the op is defined for float16 in all inputs and outputs that this node uses as floats."""
    inputs, outputs = _kinds(node.op_type)
    used = [_at(inputs, i) for i, value in enumerate(node.inputs) if is_float(value)]
    made = [_at(outputs, i) for i, value in enumerate(node.outputs) if is_float(value)]
    return "no float16" not in used and not {"no float16", "float32"} & set(made)


def _at(kinds: tuple[str, ...], position: int) -> str:
    """The last formal parameter of some ops stands for any number of them."""
    return kinds[min(position, len(kinds) - 1)]


@cache
def _kinds(op_type: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of every formal input and output: `any` (float16 too), `float32` or `no float16`."""
    schema = onnx.defs.get_schema(op_type, RAISED_OPSET, "")
    allowed = {
        constraint.type_param_str: "any" if "tensor(float16)" in constraint.allowed_type_strs else "no float16"
        for constraint in schema.type_constraints
    } | {"tensor(float)": "float32"}
    inputs = tuple(allowed.get(formal.type_str, "no float16") for formal in schema.inputs)
    return inputs, tuple(allowed.get(formal.type_str, "no float16") for formal in schema.outputs)
