"""How much of each layer's outliers is moved into its weights: alpha by the error that it makes in INT8.

The objective is the layer's own: its outputs with rounded inputs and weights, on rows of its real inputs, against the
float ones. What several tokens of an image have in common counts: the rounding of an input is new for every token
and averages out in attention and pooling, that of a weight is the same for all. So the error is averaged over a few
rows of one image before it is squared; without that, alpha comes out too high. Ranges are estimated on the sample,
as they will be on all images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from edgemim.quantize.calibration import Calibration
from edgemim.quantize.fake import fake_activation, fake_weight
from edgemim.quantize.folds import Fold, Reader, find_folds
from edgemim.quantize.insert import levels
from edgemim.quantize.nodes import constant, output_axis
from edgemim.quantize.ranges import RANGES
from edgemim.quantize.ranges._base import RangeEstimator
from edgemim.quantize.sites import Site, Unit
from edgemim.quantize.smooth import equation_4
from edgemim.quantize.statistics.in_order import in_order, usual_workers
from edgemim.quantize.statistics.observed import Observed
from edgemim.quantize.statistics.probe import build_probe
from edgemim.quantize.statistics.tensor import Tensor
from edgemim.quantize.weights import Vectors
from edgemim.runtime.targets._base import Target

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
# Enough to tell the alphas apart; the ranges are measured on all images afterwards.
IMAGES = 32
ROWS = 512
# Rows whose errors are averaged.
_TOGETHER = 4
# What an alpha has to save of the error: less comes about by chance, as other roundings.
_WORTH = 0.1


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
    """A linear layer that becomes INT8; its weight as [C_in, C_out], and its outputs on the sample."""

    unit: str
    key: str
    channels: npt.NDArray[np.int32]
    sample: _Sample
    weight: Floats
    exact: Floats
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
    """Choose alpha for every linear layer that can be smoothed; layers that read one tensor have one alpha.

    Args:
        model: The fp32 flavour.
        units: What becomes INT8 in it.
        calibration: The first `IMAGES` of it are used.
        ranges: Name of the range estimator that the activations will have.
        target: Its integer types decide how fine a step is.
        workers: Threads; the result does not depend on it.
    """
    layers = {unit.layer[0]: (unit.name, unit.layer[1]) for unit in units if unit.layer is not None}
    folds = [
        (fold, readers)
        for fold in find_folds(ir.from_proto(model).graph)
        if (readers := [reader for reader in fold.readers if reader.node.name in layers])
    ]
    samples = _samples(model, [reader for _, readers in folds for reader in readers], calibration, workers)
    estimator: RangeEstimator = RANGES.get(ranges)()
    unsigned = "uint8" in target.activation_dtypes
    factors: dict[str, tuple[float, ...]] = {}
    alphas: dict[str, float] = {}
    for fold, readers in folds:
        read = [_layer(*layers[str(reader.node.name)], reader, samples, unsigned=unsigned) for reader in readers]
        alpha, found = _best(fold, read, estimator)
        alphas |= dict.fromkeys((layer.key for layer in read), alpha)
        if alpha:
            factors |= {layer.unit: tuple(map(float, found[layer.channels])) for layer in read}
    return Smoothed(factors=factors, alphas=alphas)


def _samples(
    model: onnx.ModelProto, readers: Sequence[Reader], calibration: Calibration, workers: int | None
) -> dict[str, _Sample]:
    """By value, of every tensor that `readers` read."""
    values = dict.fromkeys(_input(reader) for reader in readers)
    if not values:
        return {}
    tensors = [Tensor(key=value, value=value, histogram=False) for value in values]
    probe = build_probe(model.SerializeToString(), tensors, calibration.preprocess)
    images = min(IMAGES, len(calibration))

    def run(position: int) -> dict[str, _Sample]:
        found = probe.run(calibration.pixels(position))
        return {value: _take(found[value], position, -(-ROWS // images)) for value in values}

    taken = list(in_order(run, range(images), workers or usual_workers(probe.bytes_per_image)))
    return {
        value: _Sample(
            reach=np.max([found[value].reach for found in taken], axis=0),
            rows=np.concatenate([found[value].rows for found in taken]),
        )
        for value in values
    }


def _take(values: Floats, position: int, count: int) -> _Sample:
    """Rows at even distances, others in every image."""
    rows = values.reshape(-1, values.shape[-1])
    count = min(count, len(rows))
    chosen = (np.arange(count) * len(rows) // count + position) % len(rows)
    return _Sample(reach=np.abs(rows).max(axis=0), rows=rows[chosen])


def _layer(unit: str, site: Site, reader: Reader, samples: Mapping[str, _Sample], *, unsigned: bool) -> _Layer:
    numbers, sample = constant(reader.node.inputs[1]), samples[_input(reader)]
    assert numbers is not None
    weight = numbers if output_axis(reader.node) == 1 else numbers.T
    return _Layer(
        unit=unit,
        key=site.key,
        channels=reader.channels,
        sample=sample,
        weight=weight,
        exact=sample.rows @ weight,
        levels=levels(site, unsigned=unsigned),
    )


def _input(reader: Reader) -> str:
    value = reader.node.inputs[0]
    assert value is not None
    return str(value.name)


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
    """Energy of what a few rows' errors in INT8 have in common, over the energy of the outputs."""
    inputs = (layer.sample.rows / factors).astype(np.float32)
    weight = (layer.weight * factors[:, None]).astype(np.float32)
    observed = Observed.empty()
    observed.add(inputs)
    # The sample rarely has the largest value, which the ranges of all images will know.
    observed.maximum = max(observed.maximum, float((layer.sample.reach / factors).max()))
    threshold = estimator.threshold(observed, levels=layer.levels)
    error = fake_activation(inputs, threshold, layer.levels) @ fake_weight(weight, 1) - layer.exact
    together = min(_TOGETHER, len(error))
    common = error[: len(error) - len(error) % together].reshape(-1, together, error.shape[1]).mean(axis=1)
    return _energy(common) / (_energy(layer.exact) or 1.0)


def _energy(values: Floats) -> float:
    return float(np.square(values, dtype=np.float64).mean())
