"""Choose the nodes of an fp16 graph that must compute in float32.

float16 holds magnitudes from 2^-14 (below, it loses bits) to 65504. A node stays in float32 when

* its op squares, sums or exponentiates (`op`): what is inside or behind it has a wider range than its input;
* it multiplies by, divides by or compares with a constant that float16 cannot hold (`constant`);
* it reads or gives a tensor that came within a factor of 8 of 65504 on the golden images (`value`): others will be
  larger than those few;
* it has no float16 form (`type`);
* it is a light op between such nodes (`between`): its operands are float32 already, and rounding them would lose
  what the island is there for.

Source: lists of ops, the range of constants and that of tensors in a reference run are what NVIDIA's ModelOpt AutoCast
and onnxconverter-common's float16 go by.
Differs: tensors are held against the range of float16 with headroom, not against 512; what a constant does decides how
small it may be; constants too small are as much a reason as those too large; light ops between islands join them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgemim.export.passes._float_types import MOVES, has_float16_form, is_float

LARGEST_HALF = 65504.0
SMALLEST_NORMAL_HALF = 2.0**-14
# Other images may exceed the golden ones by this factor.
HEADROOM = 8.0

_WIDE = frozenset(
    {
        "CumSum",
        "Exp",
        "GlobalAveragePool",
        "GlobalLpPool",
        "Log",
        "LpNormalization",
        "LpPool",
        "MeanVarianceNormalization",
        "Pow",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMean",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
    }
)
_LIGHT = MOVES | frozenset(
    {
        "Abs",
        "Add",
        "Clip",
        "Div",
        "Elu",
        "Erf",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Max",
        "Min",
        "Mul",
        "Neg",
        "Reciprocal",
        "Relu",
        "Sigmoid",
        "Sqrt",
        "Sub",
        "Tanh",
        "Where",
    }
)
# The input that is only added.
_BIAS = {
    "BatchNormalization": 2,
    "Conv": 2,
    "ConvTranspose": 2,
    "Gemm": 2,
    "GroupNormalization": 2,
    "InstanceNormalization": 2,
    "LayerNormalization": 2,
}
# An input whose every number is divided by, not only the tensor as a whole.
_DIVISOR = {"BatchNormalization": 4, "Div": 1}


def find_islands(model: ir.Model, largest: Mapping[str, float]) -> dict[ir.Node, str]:
    """The nodes that stay in float32, in the graph's order, each with its reason.

    Args:
        model: A float32 graph of opset 20.
        largest: Largest magnitude of every float tensor on the golden images, by name; a tensor that is left out
            is taken to be small.

    Returns:
        Reasons by node: `op`, `constant`, `value`, `type` or `between`, the first that holds.
    """
    found: dict[ir.Node, str] = {}
    for node in model.graph:
        reason = _reason(node, largest)
        if reason is not None:
            found[node] = reason
    while _grow(model.graph, found):
        pass
    _trim(model.graph, found)
    return {node: found[node] for node in model.graph if node in found}


def _reason(node: ir.Node, largest: Mapping[str, float]) -> str | None:
    if not any(is_float(value) for value in (*node.inputs, *node.outputs)):
        return None
    if node.op_type in _WIDE or _is_square(node):
        return "op"
    if not has_float16_form(node):
        return "type"
    if not all(_holds_constant(node, position) for position in range(len(node.inputs))):
        return "constant"
    values = (value.name or "" for value in (*node.inputs, *node.outputs) if value is not None)
    # Written so that a NaN counts as large.
    if not all(largest.get(name, 0.0) <= LARGEST_HALF / HEADROOM for name in values):
        return "value"
    return None


def _is_square(node: ir.Node) -> bool:
    return node.op_type == "Mul" and node.inputs[0] is node.inputs[1]


def _holds_constant(node: ir.Node, position: int) -> bool:
    """Whether float16 can hold this input, if it is a constant, for what the node does with it.

    Rounded to float16, a tensor whose largest magnitude is a normal number changes by at most 2^-11 of that, its
    numbers near zero included.
    """
    value = node.inputs[position]
    if value is None or not is_float(value) or value.const_value is None or node.op_type == "Cast":
        return True
    magnitudes = np.abs(value.const_value.numpy())
    largest = float(magnitudes.max(initial=0.0))
    if not largest <= LARGEST_HALF:
        return False
    if largest == 0 or _is_added_or_moved(node, position, magnitudes.size):
        return True
    if _DIVISOR.get(node.op_type) == position:
        return _smallest(magnitudes) >= SMALLEST_NORMAL_HALF
    return largest >= SMALLEST_NORMAL_HALF


def _is_added_or_moved(node: ir.Node, position: int, size: int) -> bool:
    """Whether a constant may be rounded to 0: a bias or a table, but not the one number that keeps from 0."""
    if node.op_type in _BIAS:
        return _BIAS[node.op_type] == position
    return size > 1 and node.op_type in (*MOVES, "Add", "Sub", "Where")


def _smallest(magnitudes: npt.NDArray[Any]) -> float:
    return float(magnitudes[magnitudes > 0].min(initial=np.inf))


def _grow(graph: ir.Graph, found: dict[ir.Node, str]) -> bool:
    """Add the light ops between islands; whether there were any."""
    before = len(found)
    cast_up = {value for node in found for value in node.inputs if _varies(value)}
    for node in graph:
        if node not in found and node.op_type in _LIGHT and _is_between(node, found, cast_up):
            found[node] = "between"
            cast_up.update(value for value in node.inputs if _varies(value))
    return len(found) > before


def _trim(graph: ir.Graph, found: dict[ir.Node, str]) -> None:
    """Round before, not behind, a last op that only moves numbers: half the bytes to move."""
    for node in reversed(graph):
        readers = [use.node for value in node.outputs for use in value.uses()]
        if found.get(node) == "between" and node.op_type in MOVES and readers and not found.keys() & set(readers):
            del found[node]


def _is_between(node: ir.Node, found: Mapping[ir.Node, str], cast_up: Iterable[ir.Value | None]) -> bool:
    """Whether all that a node reads is there in float32, or it divides by something that is."""
    varying = [value for value in node.inputs if _varies(value)]
    made = [value for value in varying if value is not None and value.producer() in found]
    if not made:
        return False
    divides = (node.op_type == "Div" and node.inputs[1] in made) or (
        node.op_type == "Mul" and any(_is_reciprocal(value.producer()) for value in made)
    )
    return divides or all(value in made or value in cast_up for value in varying)


def _varies(value: ir.Value | None) -> bool:
    return value is not None and is_float(value) and value.const_value is None


def _is_reciprocal(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "Reciprocal"
