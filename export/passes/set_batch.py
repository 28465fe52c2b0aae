"""Turn a graph for one image into one for a fixed batch: the same function, image by image.

The shapes of all values are inferred again from the input on. Where a graph for one image writes its batch down,
that is mended on the way: in target shapes of `Reshape` and `Expand`, in sizes of `Resize`, in constants that
`Concat` joins to every image (a class token), and in indices into flat memory (`Gather`). The batch is the one
axis of a value that has grown. That the images do not mix is for the caller to test, with images that differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

from edgemim.errors import EdgemimError
from edgemim.export.passes._edit import add_constant
from edgemim.export.passes.module_names import describe

_Shape = tuple[int, ...]

# Constants of this many numbers can be shapes, axes or sizes, which shape inference must see.
_LARGEST_SHAPE = 64


def set_batch(model: ir.Model, batch: int) -> ir.Model:
    """Let every input and output of a graph have `batch` images.

    Args:
        model: A graph with fixed shapes, for one image.
        batch: Images per run, at least 1.

    Raises:
        EdgemimError: An op whose result for several images cannot be told; the message names op and module.
        ValueError: The graph takes another number of images than 1.
    """
    graph = model.graph
    if any(_shape(value)[0] != 1 for value in graph.inputs):
        raise ValueError("the graph must take one image at a time")
    if batch == 1:
        return model
    grown = _Grown(model, batch)
    for value in graph.inputs:
        grown.set(value, (batch, *_shape(value)[1:]))
    for node in graph:
        if any(value in grown for value in node.inputs):
            _MENDS.get(node.op_type, _nothing)(grown, node)
            grown.infer(node)
    for value in graph.outputs:
        if grown.axis(value) != 0:
            raise EdgemimError(f"output {value.name!r} does not depend on the image; {_CURE}")
    return model


_CURE = "make the bundle with --batch 1"


class _Grown:
    """The values that depend on the batch: their shapes for one image, the graph holds those for all."""

    def __init__(self, model: ir.Model, batch: int) -> None:
        self.graph, self.batch = model.graph, batch
        self._opsets = [onnx.helper.make_opsetid(domain, number) for domain, number in model.opset_imports.items()]
        self._opset = model.opset_imports[""]
        self._before: dict[ir.Value, _Shape] = {}

    def __contains__(self, value: ir.Value | None) -> bool:
        return value in self._before

    def before(self, value: ir.Value) -> _Shape:
        """Its shape for one image."""
        return self._before.get(value, ()) or _shape(value)

    def set(self, value: ir.Value, shape: _Shape) -> None:
        """Give a value its new shape."""
        self._before[value] = _shape(value)
        value.shape = ir.Shape(shape)

    def axis(self, value: ir.Value) -> int | None:
        """The axis that holds the batch; None if none does, or more than one differ."""
        if value not in self:
            return None
        pairs = list(zip(self.before(value), _shape(value), strict=True))
        changed = [i for i, (one, all_) in enumerate(pairs) if one != all_]
        return changed[0] if len(changed) == 1 else None

    def infer(self, node: ir.Node) -> None:
        """Infer the shapes of a node's outputs; each must have grown along one axis, by the batch."""
        for value, shape in zip(node.outputs, self._inferred(node), strict=True):
            one = _shape(value)
            changed = [i for i, (old, new) in enumerate(zip(one, shape, strict=False)) if old != new]
            if len(shape) != len(one) or len(changed) != 1 or math.prod(shape) != math.prod(one) * self.batch:
                raise EdgemimError(f"{describe(node)} gives {list(shape)} for {self.batch} images; {_CURE}")
            self.set(value, shape)

    def _inferred(self, node: ir.Node) -> list[_Shape]:
        types, data = {}, {}
        for value in node.inputs:
            if value is None or value.name is None or value.dtype is None:
                continue
            types[value.name] = onnx.helper.make_tensor_type_proto(value.dtype.value, _shape(value))
            if value.const_value is not None and value.const_value.size <= _LARGEST_SHAPE:
                data[value.name] = ir.serde.serialize_tensor(value.const_value)
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opset, node.domain)
            found = onnx.shape_inference.infer_node_outputs(
                schema, ir.serde.serialize_node(node), types, data, opset_imports=self._opsets
            )
            kinds = [found[str(value.name)].tensor_type for value in node.outputs]
        except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, KeyError) as error:
            raise EdgemimError(f"{describe(node)} cannot be given {self.batch} images; {_CURE}") from error
        return [tuple(dim.dim_value for dim in kind.shape.dim) for kind in kinds]


def _mend_reshape(grown: _Grown, node: ir.Node) -> None:
    """The batch stays at its place in memory: as many numbers lie before it as before the reshape."""
    source, target = node.inputs[0], list(_shape(node.outputs[0]))
    assert source is not None
    axis = grown.axis(source)
    outer = None if axis is None else math.prod(_shape(source)[:axis])
    places = [i for i in range(len(target)) if math.prod(target[:i]) == outer]
    if not places:
        raise EdgemimError(f"{describe(node)} mixes images in a batch; {_CURE}")
    target[places[0]] *= grown.batch
    _replace_numbers(grown, node, 1, target)


def _mend_expand(grown: _Grown, node: ir.Node) -> None:
    """The target shape gets the batch where the images have it; axes are counted from the last."""
    source, target = node.inputs[0], list(_shape(node.outputs[0]))
    assert source is not None
    axis = grown.axis(source)
    if axis is not None:
        target[axis - len(_shape(source))] = _shape(source)[axis]
    _replace_numbers(grown, node, 1, target)


def _mend_resize(grown: _Grown, node: ir.Node) -> None:
    """Sizes name the batch; scales do not depend on it."""
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        target = _shape(node.outputs[0])
        _replace_numbers(grown, node, 3, [target[0] * grown.batch, *target[1:]])


def _mend_concat(grown: _Grown, node: ir.Node) -> None:
    """What is the same for every image is repeated."""
    axis = next((grown.axis(value) for value in node.inputs if value is not None and value in grown), None)
    for position, value in enumerate(node.inputs):
        if axis is None or value is None or value in grown:
            continue
        if value.const_value is None:
            raise EdgemimError(f"{describe(node)} joins what does not depend on the image; {_CURE}")
        repeated = np.concatenate([value.const_value.numpy()] * grown.batch, axis=axis)
        _replace_constant(grown, node, position, repeated)


def _mend_gather(grown: _Grown, node: ir.Node) -> None:
    """Indices into flat memory (torch's `as_strided`) count on through the images that follow."""
    source, indices = node.inputs[0], node.inputs[1]
    assert source is not None
    if source not in grown or indices is None or indices.const_value is None or len(_shape(source)) != 1:
        return
    numbers = indices.const_value.numpy()
    if numbers.ndim:
        following = [numbers + image * grown.before(source)[0] for image in range(grown.batch)]
        _replace_constant(grown, node, 1, np.concatenate(following))


def _nothing(grown: _Grown, node: ir.Node) -> None:
    """Nothing in this op names the batch."""


_MENDS: dict[str, Callable[[_Grown, ir.Node], None]] = {
    "Concat": _mend_concat,
    "Expand": _mend_expand,
    "Gather": _mend_gather,
    "Reshape": _mend_reshape,
    "Resize": _mend_resize,
}


def _replace_numbers(grown: _Grown, node: ir.Node, position: int, numbers: list[int]) -> None:
    _replace_constant(grown, node, position, np.array(numbers, dtype=np.int64))


def _replace_constant(grown: _Grown, node: ir.Node, position: int, array: np.ndarray) -> None:
    """Give a node a constant of its own; the old one goes when nobody else reads it."""
    old = node.inputs[position]
    node.replace_input_with(position, add_constant(grown.graph, f"{node.name}_batch_{position}", array))
    if old is not None and not old.uses() and old.name in grown.graph.initializers:
        del grown.graph.initializers[old.name]


def _shape(value: ir.Value) -> _Shape:
    assert value.shape is not None
    assert value.shape.is_static()
    return tuple(int(size) for size in value.shape.numpy())
