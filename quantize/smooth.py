"""SmoothQuant, folded offline: outliers of single channels move from activations into weights, with the same outputs.

Source: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
    ICML 2023, arXiv:2211.10438, section 4: equation 4 for the factors, equation 3 for where they go.
Differs: Alpha is searched for each layer, by the error that the layer itself makes in INT8 on a sample of its inputs,
    and 0 leaves it as it is. The factors of proj go into the values of the attention, those after a ReLU into the
    layer before it; a layer behind a GELU stays as it is. The factors are scaled so that the tensor keeps its
    maximum, which changes nothing in INT8 and keeps float16 inside its range.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from edgemim.errors import EdgemimError
from edgemim.quantize.calibration import Calibration
from edgemim.quantize.fake import fake_activation, fake_weight
from edgemim.quantize.folds import Fold, Reader, find_folds
from edgemim.quantize.insert import levels
from edgemim.quantize.nodes import constant, output_axis
from edgemim.quantize.ranges import RANGES
from edgemim.quantize.ranges._base import RangeEstimator
from edgemim.quantize.sites import Site, Unit
from edgemim.quantize.statistics.in_order import in_order, usual_workers
from edgemim.quantize.statistics.observed import Observed
from edgemim.quantize.statistics.probe import build_probe
from edgemim.quantize.statistics.tensor import Tensor
from edgemim.quantize.weights import Vectors
from edgemim.runtime.targets._base import Target

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
# What alpha is chosen on. The ranges are measured on all images afterwards.
IMAGES = 32
ROWS = 512
# An alpha that saves less of a layer's error than this is not worth another layer.
_WORTH = 0.02
# Factors stay within this of their mean.
_WIDEST = 256.0


@dataclass(frozen=True, kw_only=True)
class Smoothed:
    """What was found for a model.

    Attributes:
        factors: By unit, what each input channel is divided by; units that stay as they are have none.
        alphas: By key of the site of the input, where it could be smoothed; 0 where it stays as it is.
    """

    factors: Vectors = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sample:
    """What the images gave of one tensor: the largest |x| of each channel, [C], and rows of it, [R, C]."""

    reach: Floats
    rows: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layer:
    """A linear layer that becomes INT8."""

    unit: str
    key: str
    channels: npt.NDArray[np.int32]
    sample: _Sample
    weight: Doubles  # [C_in, C_out]
    levels: int


def find_smoothing(
    model: onnx.ModelProto,
    units: Iterable[Unit],
    calibration: Calibration,
    *,
    ranges: str,
    target: Target,
    workers: int | None = None,
) -> Smoothed:
    """Choose alpha for every linear layer that can be smoothed.

    Args:
        model: The fp32 flavour.
        units: What becomes INT8 in it; units without a weight do not matter.
        calibration: The first `IMAGES` of it are used.
        ranges: Name of the range estimator that the activations will have.
        target: Its integer types decide how fine a step is.
        workers: Threads; the result does not depend on it.
    """
    graph = ir.from_proto(model).graph
    layers = _weighted(units)
    folds = [fold for fold in find_folds(graph) if any(str(reader.node.name) in layers for reader in fold.readers)]
    samples = _samples(model, folds, calibration, workers) if folds else {}
    estimator: RangeEstimator = RANGES.get(ranges)()
    unsigned = "uint8" in target.activation_dtypes
    factors: dict[str, tuple[float, ...]] = {}
    alphas: dict[str, float] = {}
    for fold in folds:
        read = [
            _layer(*layers[str(reader.node.name)], reader, samples, unsigned)
            for reader in fold.readers
            if str(reader.node.name) in layers
        ]
        alpha, found = _best(fold, read, estimator)
        alphas |= dict.fromkeys((layer.key for layer in read), alpha)
        if alpha:
            factors |= {layer.unit: tuple(map(float, found[layer.channels])) for layer in read}
    return Smoothed(factors=factors, alphas=alphas)


def smooth(model: ir.Model, units: Iterable[Unit], factors: Vectors) -> ir.Model:
    """Fold factors into a graph, in place: the same outputs, with other channels.

    Args:
        model: Any float flavour.
        units: Of its placement, those that stay in float as well.
        factors: By unit; units that the graph does not have are passed over.

    Returns:
        The same model.

    Raises:
        EdgemimError: A unit has factors that this graph has no place for.
    """
    wanted = {node: unit for node, (unit, _) in _weighted(units).items() if unit in factors}
    for fold in find_folds(model.graph):
        found = np.ones(len(fold.free))
        for reader in fold.readers:
            unit = wanted.pop(str(reader.node.name), None)
            if unit is not None:
                if len(factors[unit]) != len(reader.channels):
                    raise EdgemimError(f"{unit!r} was calibrated with other channels; calibrate this model again")
                found[reader.channels] = factors[unit]
        if (found != 1).any():
            fold.divide(found)
    if wanted:
        unit = next(iter(wanted.values()))
        raise EdgemimError(f"the smoothing of {unit!r} has no place in this graph; quantize it without smoothing")
    return model


def equation_4(reach: Doubles, weights: Doubles, alpha: float) -> Doubles:
    """Factors per channel from the largest |x| and the largest |w| of each, [C].

    A channel that is always 0 keeps its factor out of the way: 1 before all are scaled to keep the largest |x|.
    """
    known = (reach > 0) & (weights > 0)
    if not known.any():
        return np.ones_like(reach)
    logs = alpha * np.log(reach[known]) - (1 - alpha) * np.log(weights[known])
    found = np.ones_like(reach)
    limit = np.log(_WIDEST)
    found[known] = np.exp(np.clip(logs - logs.mean(), -limit, limit))
    scaled: Doubles = found * ((reach / found).max() / reach.max())
    return scaled


def _weighted(units: Iterable[Unit]) -> dict[str, tuple[str, Site]]:
    """Name of the unit and site of the input, by name of the node that has the weight."""
    found = {}
    for unit in units:
        nodes = [node for site in unit.sites if site.is_weight for node, _ in site.readers]
        inputs = [site for site in unit.sites if not site.is_weight]
        if nodes and inputs:
            found[nodes[0]] = (unit.name, inputs[0])
    return found


def _samples(
    model: onnx.ModelProto, folds: Sequence[Fold], calibration: Calibration, workers: int | None
) -> dict[str, _Sample]:
    """By value: what the first images give of every tensor that a fold's layers read."""
    values = dict.fromkeys(str(reader.node.inputs[0].name) for fold in folds for reader in fold.readers)
    probe = build_probe(model.SerializeToString(), [Tensor(key=v, value=v) for v in values], calibration.preprocess)
    images = min(IMAGES, len(calibration))

    def run(position: int) -> dict[str, _Sample]:
        found = probe.run(calibration.pixels(position))
        return {value: _take(found[value], position, -(-ROWS // images)) for value in values}

    reach: dict[str, Floats] = {}
    rows: dict[str, list[Floats]] = {value: [] for value in values}
    for found in in_order(run, range(images), workers or usual_workers(probe.bytes_per_image)):
        for value, sample in found.items():
            reach[value] = np.maximum(reach.get(value, 0), sample.reach)
            rows[value].append(sample.rows)
    return {value: _Sample(reach=reach[value], rows=np.concatenate(rows[value])) for value in values}


def _take(values: Floats, position: int, count: int) -> _Sample:
    """Rows at even distances, others in every image."""
    rows = values.reshape(-1, values.shape[-1])
    count = min(count, len(rows))
    chosen = (np.arange(count) * len(rows) // count + position) % len(rows)
    return _Sample(reach=np.abs(rows).max(axis=0), rows=rows[chosen])


def _layer(unit: str, site: Site, reader: Reader, samples: Mapping[str, _Sample], unsigned: bool) -> _Layer:
    weight = constant(reader.node.inputs[1])
    assert weight is not None
    return _Layer(
        unit=unit,
        key=site.key,
        channels=reader.channels,
        sample=samples[site.value],
        weight=(weight if output_axis(reader.node) == 1 else weight.T).astype(np.float64),
        levels=levels(site, unsigned=unsigned),
    )


def _best(fold: Fold, layers: Sequence[_Layer], estimator: RangeEstimator) -> tuple[float, Doubles]:
    """The alpha with the least error over all layers of a fold, and the factors of the source's channels."""
    reach, weights = np.zeros(len(fold.free)), np.zeros(len(fold.free))
    for layer in layers:
        np.maximum.at(reach, layer.channels, layer.sample.reach)
        np.maximum.at(weights, layer.channels, np.abs(layer.weight).max(axis=1))
    candidates = {0.0: np.ones(len(fold.free))}
    for alpha in ALPHAS:
        found = equation_4(reach * fold.free, weights * fold.free, alpha)
        candidates[alpha] = np.where(fold.free, found, 1.0)
    errors = {
        alpha: sum(_error(layer, factors[layer.channels], estimator) for layer in layers)
        for alpha, factors in candidates.items()
    }
    best = min(ALPHAS, key=errors.__getitem__)
    if errors[best] > (1 - _WORTH) * errors[0.0]:
        best = 0.0
    return best, candidates[best]


def _error(layer: _Layer, factors: Doubles, estimator: RangeEstimator) -> float:
    """Energy of a layer's error in INT8 over the energy of its output, on the sample."""
    inputs = (layer.sample.rows / factors).astype(np.float32)
    weight = (layer.weight * factors[:, None]).astype(np.float32)
    observed = Observed.empty()
    observed.add(inputs)
    observed.maximum = max(observed.maximum, float((layer.sample.reach / factors).max()))
    threshold = estimator.threshold(observed, levels=layer.levels)
    exact = inputs @ weight
    error = fake_activation(inputs, threshold, layer.levels) @ fake_weight(weight, 1) - exact
    return float(
        np.square(error, dtype=np.float64).sum()
        / max(np.square(exact, dtype=np.float64).sum(), np.finfo(np.float64).tiny)
    )
