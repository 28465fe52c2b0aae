"""Bias correction: what INT8 takes from the mean of each output channel goes back into the bias.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
    arXiv:1906.04721, section 4.2 and appendix D (the empirical form).
Differs: The rounded input counts as well as the rounded weight: the correction is E[W x] - E[Wq xq]. A layer is linear,
    so the means of x and xq are all that is needed of the images. Every layer is corrected for its own error, on the
    inputs of the float model: the corrections do not depend on which other layers are INT8, so a mix keeps them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from edgemim.quantize.calibration import Calibration
from edgemim.quantize.fake import fake_activation, fake_weight
from edgemim.quantize.insert import levels
from edgemim.quantize.nodes import constant, int_attribute, is_convolution, is_linear, output_axis
from edgemim.quantize.sites import Unit
from edgemim.quantize.statistics.in_order import in_order, usual_workers
from edgemim.quantize.statistics.probe import build_probe
from edgemim.quantize.statistics.tensor import Tensor
from edgemim.quantize.weights import Vectors, add_to_bias
from edgemim.runtime.targets._base import Target

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

# Means need fewer images than maxima do.
IMAGES = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layer:
    """A layer with weights that becomes INT8; the value that it reads, and how that is rounded."""

    unit: str
    node: ir.Node
    value: str
    threshold: float
    levels: int


def find_bias(
    model: onnx.ModelProto,
    units: Iterable[Unit],
    thresholds: Mapping[str, float],
    calibration: Calibration,
    *,
    target: Target,
    workers: int | None = None,
) -> dict[str, tuple[float, ...]]:
    """Measure what each layer's outputs lack in INT8.

    Args:
        model: The fp32 flavour, smoothed if the INT8 form will be.
        units: What becomes INT8 in it; units without a weight, and transposed convolutions, are passed over.
        thresholds: By site key.
        calibration: The first `IMAGES` of it are used.
        target: Its integer types decide how fine a step is.
        workers: Threads; the result does not depend on it, to the last bit.

    Returns:
        By unit, what is to be added to the bias, [C_out].
    """
    layers = _layers(ir.from_proto(model).graph, units, thresholds, unsigned="uint8" in target.activation_dtypes)
    if not layers:
        return {}
    tensors = [Tensor(key=value, value=value) for value in dict.fromkeys(layer.value for layer in layers)]
    probe = build_probe(model.SerializeToString(), tensors, calibration.preprocess)

    def run(position: int) -> list[tuple[Doubles, Doubles]]:
        found = probe.run(calibration.pixels(position))
        return [_means(layer, found[layer.value]) for layer in layers]

    images = min(IMAGES, len(calibration))
    totals = [(np.zeros(()), np.zeros(())) for _ in layers]
    for found in in_order(run, range(images), workers or usual_workers(probe.bytes_per_image)):
        totals = [(a + exact, b + rounded) for (a, b), (exact, rounded) in zip(totals, found, strict=True)]
    return {
        layer.unit: tuple(map(float, _lacking(layer.node, exact / images, rounded / images)))
        for layer, (exact, rounded) in zip(layers, totals, strict=True)
    }


def correct_bias(model: ir.Model, units: Iterable[Unit], bias: Vectors) -> ir.Model:
    """Add to the biases of the layers of `units`, in place; what the units are made of keeps its names.

    Args:
        model: Any float flavour.
        units: What becomes INT8 in it.
        bias: By unit; other units are passed over.

    Returns:
        The same model.
    """
    nodes = {str(node.name): node for node in model.graph}
    for unit in units:
        if unit.name in bias:
            assert unit.layer is not None
            add_to_bias(nodes[unit.layer[0]], np.array(bias[unit.name]))
    return model


def _layers(graph: ir.Graph, units: Iterable[Unit], thresholds: Mapping[str, float], *, unsigned: bool) -> list[_Layer]:
    nodes = {str(node.name): node for node in graph}
    return [
        _Layer(
            unit=unit.name,
            node=nodes[unit.layer[0]],
            value=unit.layer[1].value,
            threshold=thresholds[unit.layer[1].key],
            levels=levels(unit.layer[1], unsigned=unsigned),
        )
        for unit in units
        if unit.layer is not None and _has_means(nodes[unit.layer[0]])
    ]


def _has_means(node: ir.Node) -> bool:
    if is_linear(node):
        return int_attribute(node, "transA") == 0
    return node.op_type == "Conv" and str(node.attributes.get_string("auto_pad", "NOTSET")) == "NOTSET"


def _means(layer: _Layer, values: Floats) -> tuple[Doubles, Doubles]:
    """Of the input as it is and as INT8 has it, for every number that a weight multiplies."""
    rounded = fake_activation(values, layer.threshold, layer.levels)
    mean = _mean_of_taps if is_convolution(layer.node) else _mean_of_rows
    return mean(layer.node, values), mean(layer.node, rounded)


def _mean_of_rows(_: ir.Node, values: Floats) -> Doubles:
    """[C_in]."""
    found: Doubles = values.reshape(-1, values.shape[-1]).mean(axis=0, dtype=np.float64)
    return found


def _mean_of_taps(node: ir.Node, values: Floats) -> Doubles:
    """[C_in, *kernel]: the mean, over all places of the kernel, of what each of its taps meets; values: [1, C, ...]."""
    weight = constant(node.inputs[1])
    assert weight is not None
    kernel = weight.shape[2:]
    dims = len(kernel)
    pads = node.attributes.get_ints("pads", [0] * 2 * dims)
    strides = node.attributes.get_ints("strides", [1] * dims)
    dilations = node.attributes.get_ints("dilations", [1] * dims)
    padded = np.pad(values[0], [(0, 0), *zip(pads[:dims], pads[dims:], strict=True)])
    output = node.outputs[0].shape
    assert output is not None
    places = [int(size) for size in output.numpy()[2:]]
    found = np.empty((len(padded), *kernel))
    for tap in np.ndindex(*kernel):
        window = tuple(
            slice(at * dilation, at * dilation + (count - 1) * stride + 1, stride)
            for at, dilation, count, stride in zip(tap, dilations, places, strides, strict=True)
        )
        inside: tuple[slice, ...] = (slice(None), *window)
        place: tuple[slice | int, ...] = (slice(None), *tap)
        found[place] = padded[inside].mean(axis=tuple(range(1, dims + 1)), dtype=np.float64)
    return found


def _lacking(node: ir.Node, exact: Doubles, rounded: Doubles) -> Doubles:
    """E[W x] - E[Wq xq], [C_out]; sums in one fixed order, which a matrix product would leave to the machine."""
    numbers = constant(node.inputs[1])
    assert numbers is not None
    weight = numbers.astype(np.float64)
    stored = fake_weight(numbers, output_axis(node)).astype(np.float64)
    if is_convolution(node):
        groups = int_attribute(node, "group", 1)
        exact, rounded = (
            np.repeat(mean.reshape(groups, -1, *mean.shape[1:]), len(weight) // groups, axis=0)
            for mean in (exact, rounded)
        )
        found: Doubles = (weight * exact - stored * rounded).reshape(len(weight), -1).sum(axis=1)
        return found
    if output_axis(node) == 0:
        weight, stored = weight.T, stored.T
    alpha = float(node.attributes.get_float("alpha", 1.0))
    mean: Doubles = alpha * (weight * exact[:, None] - stored * rounded[:, None]).sum(axis=0)
    return mean
