"""Change the constants of a graph: weights and biases of one node, whoever else reads the same ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgemim.quantize.nodes import biased_output, constant

Doubles = npt.NDArray[np.float64]
# By unit, one number per channel.
Vectors = Mapping[str, tuple[float, ...]]


def is_private(value: ir.Value | None) -> bool:
    """Whether one input of one node is all that reads a value."""
    return value is not None and len(list(value.uses())) == 1 and not value.is_graph_output()


def scale_constant(node: ir.Node, position: int, factors: Doubles, *, axis: int) -> None:
    """Multiply a constant input by one factor for each channel along `axis`."""
    array = _read(node, position)
    shape = [1] * array.ndim
    shape[axis] = -1
    write_constant(node, position, array * factors.reshape(shape))


def write_constant(node: ir.Node, position: int, array: Doubles) -> None:
    """Give a node other numbers in the place of a constant input, rounded once to its dtype.

    What nobody else reads keeps its name.
    """
    value = node.inputs[position]
    assert value is not None
    assert value.dtype is not None
    rounded = array.astype(value.dtype.numpy())
    if is_private(value) and rounded.shape == _read(node, position).shape:
        value.const_value = ir.tensor(rounded, name=value.name)
    else:
        node.replace_input_with(position, _new_constant(node.graph, f"{value.name}_of_{node.name}", rounded))


def add_to_bias(node: ir.Node, vector: Doubles) -> None:
    """Add to the bias of a linear layer or convolution, [C_out]; one without a bias gets one.

    A value that had a name before means the same after: the output with the bias.
    """
    output = biased_output(node)
    if output is not node.outputs[0]:
        add = output.producer()
        assert add is not None
        position = 1 if add.inputs[0] is node.outputs[0] else 0
        write_constant(add, position, _read(add, position) + vector)
    elif node.op_type == "MatMul":
        _append_add(node, vector)
    else:
        _add_to_third(node, vector)


def _add_to_third(node: ir.Node, vector: Doubles) -> None:
    """The third input of a Gemm or convolution."""
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        beta = node.attributes.get_float("beta", 1.0)
        write_constant(node, 2, beta * _read(node, 2) + vector)
    else:
        bias = vector.astype(_dtype(node.outputs[0]))
        node.resize_inputs(3)
        node.replace_input_with(2, _new_constant(node.graph, f"{node.name}_bias", bias))
    if "beta" in node.attributes:
        node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)


def _append_add(node: ir.Node, vector: Doubles) -> None:
    graph, output = node.graph, node.outputs[0]
    assert isinstance(graph, ir.Graph)
    bias = _new_constant(graph, f"{node.name}_bias", vector.astype(_dtype(output)))
    add = ir.node("Add", (output, bias), name=_fresh(graph, f"{node.name}_add_bias"))
    add.metadata_props.update(node.metadata_props)
    result = add.outputs[0]
    result.shape, result.dtype = output.shape, output.dtype
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    add.replace_input_with(0, output)
    result.name, output.name = output.name, _fresh(graph, f"{output.name}_without_bias")
    graph.insert_after(node, add)


def _read(node: ir.Node, position: int) -> Doubles:
    """A constant input in float64, so that a change rounds once, when it is written."""
    array = constant(node.inputs[position])
    assert array is not None
    return array.astype(np.float64)


def _dtype(value: ir.Value) -> np.dtype:
    assert value.dtype is not None
    found: np.dtype = value.dtype.numpy()
    return found


def _new_constant(graph: ir.Graph | ir.Function | None, name: str, array: npt.NDArray) -> ir.Value:
    assert isinstance(graph, ir.Graph)
    name = _fresh(graph, name)
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    graph.register_initializer(value)
    return value


def _fresh(graph: ir.Graph, name: str) -> str:
    made = {str(output.name) for node in graph for output in node.outputs}
    names = {*made, *graph.initializers, *(str(v.name) for v in graph.inputs), *(str(node.name) for node in graph)}
    number, free = 0, name
    while free in names:
        number += 1
        free = f"{name}_{number}"
    return free
