"""Write QuantizeLinear and DequantizeLinear into a graph, from units and ranges.

Activations get one symmetric scale, threshold / 127, or threshold / 255 where the site is never negative and the
target has uint8. Weights are stored as int8 with one scale per output channel, max |w| / 127. Zero points are 0,
scales have the dtype of what they scale, biases stay in float: TensorRT, OpenVINO and ONNX Runtime all take that.

A scale that float16 cannot tell from 0 becomes its smallest number: the step is then coarser than the range asks
for, but everything it rounds away is as good as 0 there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgemim.errors import EdgemimError
from edgemim.quantize.nodes import constant, largest
from edgemim.quantize.qdq import MODULE_KEY
from edgemim.quantize.sites import Site, Unit

# The metadata under which a Q or DQ node says which site it is.
SITE_KEY = "edgemim.site"

INT8_LEVELS = 127
UINT8_LEVELS = 255

# The first opset whose QuantizeLinear takes float16.
_HALF_OPSET = 19


def insert_qdq(model: ir.Model, units: Iterable[Unit], thresholds: Mapping[str, float], *, unsigned: bool) -> ir.Model:
    """Quantize the sites of `units`, in place.

    Sites on the same tensor share one pair, whose range is the widest of theirs, and a weight that several layers read
    is stored once; whoever reads a tensor without a site keeps the float.

    Args:
        model: The graph that the units were found in.
        units: What becomes INT8.
        thresholds: Largest magnitude that is represented, by site key; 0 where calibration saw nothing but zeros
            (any range is right, 1 is taken); weights need none.
        unsigned: Whether the target takes uint8 where a site allows it.

    Returns:
        The same model.

    Raises:
        EdgemimError: A site has no threshold, or none that the graph's dtype can hold; a weight is not finite; the
            graph is float16 in an opset that cannot quantize it.
    """
    writer = _Writer(model, thresholds, unsigned=unsigned)
    groups: dict[tuple[str, int | None], list[Site]] = {}
    for unit in units:
        for site in unit.sites:
            groups.setdefault((site.value, site.axis), []).append(site)
    for group in groups.values():
        writer.write(group)
    writer.drop_unread()
    return model


def levels(site: Site, *, unsigned: bool) -> int:
    """Steps between 0 and the threshold: 127 for int8, 255 for uint8."""
    return UINT8_LEVELS if site.unsigned and unsigned else INT8_LEVELS


def store_weight(weight: npt.NDArray, axis: int) -> tuple[npt.NDArray[np.int8], npt.NDArray]:
    """A weight as int8 in [-127, 127], and the scale of each channel along `axis`, in the weight's dtype."""
    reached = largest(weight, axis)
    # A channel of zeros: any scale gives zeros back.
    reached = np.where(reached > 0, reached, np.float32(1))
    steps = _round_scale(reached / np.float32(INT8_LEVELS), weight.dtype)
    # Below its smallest normal number float16 may round a scale down so far that the largest value has no place.
    beyond = reached / steps.astype(np.float64) >= INT8_LEVELS + 0.5
    steps = np.where(beyond, np.nextafter(steps, np.asarray(np.inf, dtype=steps.dtype)), steps)
    spread = [1] * weight.ndim
    spread[axis] = -1
    divided = weight.astype(np.float64) / steps.astype(np.float64).reshape(spread)
    return np.rint(divided).astype(np.int8), steps


class _Writer:
    """Adds nodes and constants to one graph, under names that it does not have yet."""

    def __init__(self, model: ir.Model, thresholds: Mapping[str, float], *, unsigned: bool) -> None:
        self._graph = model.graph
        self._opset = model.opset_imports[""]
        self._thresholds = thresholds
        self._unsigned = unsigned
        self._order = {str(node.name): (position, node) for position, node in enumerate(model.graph)}
        made = (output for node in model.graph for output in node.outputs)
        self._values = {str(v.name): v for v in (*model.graph.inputs, *model.graph.initializers.values(), *made)}
        self._names = {*self._values, *self._order}

    def write(self, group: list[Site]) -> None:
        """Quantize one tensor for all sites on it."""
        value = self._values[group[0].value]
        if value.dtype != ir.DataType.FLOAT and self._opset < _HALF_OPSET:
            raise EdgemimError(
                f"the site {group[0].key!r} is {value.dtype}, which ONNX quantizes from opset {_HALF_OPSET} on, and "
                f"the model has opset {self._opset}; export it again"
            )
        replacement = self._weight(value, group) if group[0].is_weight else self._activation(value, group)
        for reader, position in (edge for site in group for edge in site.readers):
            self._order[reader][1].replace_input_with(position, replacement)

    def drop_unread(self) -> None:
        """Forget the float weights that nothing reads any more: they are three quarters of the file."""
        for name, value in list(self._graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self._graph.initializers[name]

    def _weight(self, weight: ir.Value, group: list[Site]) -> ir.Value:
        site, numbers = group[0], constant(weight)
        assert numbers is not None
        assert site.axis is not None
        if not np.isfinite(numbers).all():
            raise EdgemimError(f"the weight of {site.module!r} has values that are not finite; train or load it again")
        stored, steps = store_weight(numbers, site.axis)
        inputs = (
            self._constant(f"{weight.name}_int8", stored),
            self._constant(f"{weight.name}_scale", steps),
            self._constant(f"{weight.name}_zero", np.zeros(steps.shape, np.int8)),
        )
        node = self._node("DequantizeLinear", inputs, f"{weight.name}_dequantized", group, weight, weight.dtype)
        node.attributes["axis"] = ir.AttrInt64("axis", site.axis)
        _, first = min(self._order[reader] for one in group for reader, _ in one.readers)
        self._graph.insert_before(first, node)
        return node.outputs[0]

    def _activation(self, value: ir.Value, group: list[Site]) -> ir.Value:
        steps = min(levels(site, unsigned=self._unsigned) for site in group)
        integer = np.uint8 if steps == UINT8_LEVELS else np.int8
        assert value.dtype is not None
        threshold = max(self._threshold(site) for site in group) or 1.0
        scale = _round_scale(np.float64(threshold / steps), value.dtype.numpy())
        if not np.isfinite(scale):
            raise EdgemimError(
                f"the site {group[0].key!r} reaches {threshold:.3g}, too much for {value.dtype}; leave its unit in "
                "float or use the fp32 flavour"
            )
        parameters = (
            self._constant(f"{value.name}_scale", scale),
            self._constant(f"{value.name}_zero", np.zeros((), integer)),
        )
        dtype = ir.DataType.from_numpy(np.dtype(integer))
        quantize = self._node("QuantizeLinear", (value, *parameters), f"{value.name}_quantized", group, value, dtype)
        inputs = (quantize.outputs[0], *parameters)
        dequantize = self._node("DequantizeLinear", inputs, f"{value.name}_dequantized", group, value, value.dtype)
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(next(iter(self._graph)), [quantize, dequantize])
        else:
            self._graph.insert_after(producer, [quantize, dequantize])
        return dequantize.outputs[0]

    def _threshold(self, site: Site) -> float:
        found = self._thresholds.get(site.key)
        if found is None:
            raise EdgemimError(f"the site {site.key!r} has no measured range; calibrate this model again")
        if not (math.isfinite(found) and found >= 0):
            raise EdgemimError(f"the site {site.key!r} has the range {found}; calibrate this model on other images")
        return found

    def _constant(self, name: str, array: npt.NDArray) -> ir.Value:
        name = self._fresh(name)
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
        self._graph.register_initializer(value)
        return value

    def _node(
        self,
        op_type: str,
        inputs: tuple[ir.Value, ...],
        name: str,
        group: list[Site],
        like: ir.Value,
        dtype: ir.DataType | None,
    ) -> ir.Node:
        name = self._fresh(name)
        node = ir.node(op_type, inputs, name=self._fresh(f"node_{name}"))
        node.metadata_props[MODULE_KEY] = group[0].module
        node.metadata_props[SITE_KEY] = group[0].key
        output = node.outputs[0]
        output.name, output.shape, output.dtype = name, like.shape, dtype
        return node

    def _fresh(self, name: str) -> str:
        number, free = 0, name
        while free in self._names:
            number += 1
            free = f"{name}_{number}"
        self._names.add(free)
        return free


def _round_scale(scale: npt.NDArray[np.floating], dtype: np.dtype) -> npt.NDArray[np.floating]:
    """A scale in the graph's dtype, above 0."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.asarray(scale, dtype=dtype)
    limits = np.finfo(dtype)
    smallest = np.asarray(2.0 ** (limits.minexp - limits.nmant), dtype=dtype)
    above: npt.NDArray[np.floating] = np.maximum(rounded, smallest)
    return above
