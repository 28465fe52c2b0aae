"""What the ops that only move or scale values do, in numpy, to an array that stands for the values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgemim.export.passes._linear import constant, is_constant, static_shape

Array = npt.NDArray[np.int64]
Shape = tuple[int, ...]

# Ops that keep all values of their one input that is not constant, in another layout.
LAYOUT = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def computed_input(node: ir.Node) -> ir.Value | None:
    """The only input that is not constant; None where there are two, or none."""
    computed = [value for value in node.inputs if value is not None and not is_constant(value)]
    return computed[0] if len(computed) == 1 else None


def bypass(node: ir.Node) -> None:
    """Remove an op with one computed input: what reads its output reads that input, an output of the graph included."""
    x, graph, output = computed_input(node), node.graph, node.outputs[0]
    assert x is not None
    assert isinstance(graph, ir.Graph)
    for position, value in enumerate(graph.outputs):
        if value is output:
            x.name, output.name = output.name, x.name
            graph.outputs[position] = x
    output.replace_all_uses_with(x)
    graph.remove(node, safe=True)


def move(node: ir.Node, array: Array) -> list[Array] | None:
    """What becomes of an array at the place of a node's only input that is not constant.

    A product with a constant only broadcasts, since the array says where a value comes from, not how large it is.

    Returns:
        One array for each output; None if the op does anything else, or if a shape is open.
    """
    shapes = [shape for output in node.outputs if (shape := static_shape(output)) is not None]
    rule = _RULES.get(node.op_type)
    if rule is None or len(shapes) < len(node.outputs):
        return None
    return rule(node, array, shapes)


def _reorder(_: ir.Node, array: Array, shapes: list[Shape]) -> list[Array]:
    return [array.reshape(shapes[0])]


def _transpose(node: ir.Node, array: Array, _: list[Shape]) -> list[Array]:
    return [array.transpose(node.attributes.get_ints("perm", tuple(reversed(range(array.ndim)))))]


def _slice(node: ir.Node, array: Array, _: list[Shape]) -> list[Array]:
    starts, ends, *rest = ([int(number) for number in constant(value)] for value in node.inputs[1:])
    axes = rest[0] if rest else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = array.shape[axis]
        # ONNX writes "to the first, inclusive" of a negative step as an end below -size.
        stop = None if step < 0 and end < -size else end
        array = array[(slice(None),) * (axis % array.ndim) + (slice(start, stop, step),)]
    return [array]


def _split(node: ir.Node, array: Array, shapes: list[Shape]) -> list[Array]:
    axis = node.attributes.get_int("axis", 0)
    places = np.cumsum([shape[axis] for shape in shapes])[:-1]
    return list(np.split(array, places, axis=axis))


def _gather(node: ir.Node, array: Array, _: list[Shape]) -> list[Array]:
    return [np.take(array, constant(node.inputs[1]), axis=node.attributes.get_int("axis", 0))]


def _multiply(node: ir.Node, array: Array, shapes: list[Shape]) -> list[Array] | None:
    # A constant divided by the input is none of its multiples.
    if node.op_type == "Div" and is_constant(node.inputs[0]):
        return None
    return [np.broadcast_to(array, shapes[0])]


def _pad(node: ir.Node, array: Array, _: list[Shape]) -> list[Array] | None:
    return None if constant(node.inputs[1]).any() else [array]


_RULES: dict[str, Callable[[ir.Node, Array, list[Shape]], list[Array] | None]] = {
    "Div": _multiply,
    "Flatten": _reorder,
    "Gather": _gather,
    "Identity": _reorder,
    "Mul": _multiply,
    "Neg": _reorder,
    "Pad": _pad,
    "Reshape": _reorder,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _reorder,
    "Transpose": _transpose,
    "Unsqueeze": _reorder,
}
