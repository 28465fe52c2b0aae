"""Give queries, keys and values of all heads similar ranges, so that one INT8 scale can serve them.

Per head, queries are multiplied by a factor and keys divided by it, so that both have one range; the scores stay what
they are. Values are multiplied by a factor that the next layer's weights take back: it splits what differs between the
heads evenly with those weights, and gives the widest head the range of the widest queries and keys of its projection.
It is one number per head, since only that passes through rotary positions.

Source: the equalisation of Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
ICCV 2019, arXiv:1906.04721, section 4.1, and its estimate of activations without data, section 4.2: the affine of the
normalisation before a layer gives mean and variance of what the layer reads.
Differs: in attentions, per head and not per channel; ranges of activations are equalised, between two activations or
between an activation and the norm of the weights that read it, not between two weights. A range is |mean| + 3 standard
deviations for independent inputs; where no normalisation is before a layer, for inputs of mean 0 and variance 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgemim.export.passes._channels import LEFT, RIGHT, SUM, WEIGHTS, Channels, Labels, connected, follow_channels
from edgemim.export.passes._linear import Doubles

_DEVIATIONS = 3.0


def equalise_heads(model: ir.Model) -> ir.Model:
    """Equalise every attention whose queries and keys, or values, come from known layers and go nowhere else.

    Where queries and keys are normalised, the factor goes into the norm, one for all heads that share it.
    """
    channels = follow_channels(model)
    ranges = _estimate_ranges(channels)
    factors = _match_keys(channels, ranges)
    channels.scale(factors * _match_values(channels, ranges * factors))
    return model


def _estimate_ranges(channels: Channels) -> Doubles:
    """The range of every channel that an attention reads and of the others that its layer makes, [labels]."""
    mean, variance = np.zeros(len(channels.groups)), np.ones(len(channels.groups))
    reads = dict(channels.readers)
    for source in channels.sources:
        bias = 0.0 if source.bias is None else source.bias.read().reshape(-1)
        if source.linear is None:
            mean[source.labels], variance[source.labels] = bias, source.weight.read() ** 2
        elif (channels.uses[source.labels] & (LEFT | RIGHT | SUM)).any():
            weights = np.moveaxis(source.weight.read(), source.weight.axis, 0)
            # What a Conv reads at the taps of its kernel has one mean and variance.
            weights = weights.reshape(*weights.shape[:2], -1)
            inputs = reads.get(source.linear)
            means = np.zeros(weights.shape[1]) if inputs is None else mean[inputs]
            variances = np.ones(weights.shape[1]) if inputs is None else variance[inputs]
            mean[source.labels] = weights.sum(axis=-1) @ means + bias
            variance[source.labels] = (weights**2).sum(axis=-1) @ variances
    return np.abs(mean) + _DEVIATIONS * np.sqrt(variance)


def _match_keys(channels: Channels, ranges: Doubles) -> Doubles:
    """Factors that give the queries and the keys of every head one range, [labels]."""
    left, right = channels.uses == LEFT, channels.uses == RIGHT
    links = [channels.groups[product.heads] for product in channels.products]
    heads = connected(len(ranges), links)[channels.groups]
    queries, keys = (_widest(ranges, heads, side) for side in (left, right))
    known = (_widest(np.ones_like(ranges), heads, ~(left | right)) == 0) & (queries > 0) & (keys > 0)
    ratio = np.sqrt(np.divide(keys, queries, out=np.ones_like(ranges), where=known))
    return np.where(left, ratio, 1.0) / np.where(right, ratio, 1.0)


def _match_values(channels: Channels, ranges: Doubles) -> Doubles:
    """Factors that balance every head's values with the weights that read them, [labels].

    The widest head of a layer gets the range of the widest other channels that the layer makes, else keeps its own.
    """
    values = channels.uses == SUM | WEIGHTS
    heads = _widest(ranges, channels.groups, values)
    norms = _norms(channels)
    known = (heads > 0) & (norms > 0)
    balance = np.sqrt(np.divide(norms, heads, out=np.zeros_like(heads), where=known))
    factors = np.ones_like(ranges)
    for source in channels.sources:
        own = source.labels[(values & known)[source.labels]]
        others = source.labels[~values[source.labels]]
        target = ranges[others if len(others) else own].max(initial=0.0)
        if len(own) and target > 0:
            factors[channels.groups[own]] = balance[own] * target / (balance[own] * heads[own]).max()
    return factors[channels.groups]


def _norms(channels: Channels) -> Doubles:
    """The norm of all weights that read a channel's group, [labels]."""
    energy = np.zeros(len(channels.groups))
    for linear, labels in channels.readers:
        if linear.inputs is not None and (channels.uses[labels] & SUM).any():
            weights = np.moveaxis(linear.inputs.read(), linear.inputs.axis, 0)
            np.add.at(energy, channels.groups[labels], (weights**2).reshape(len(labels), -1).sum(axis=1))
    return np.sqrt(energy)[channels.groups]


def _widest(ranges: Doubles, heads: Labels, among: npt.NDArray[np.bool_]) -> Doubles:
    """The widest range of the channels `among` each label's head, 0 where it has none of them, [labels]."""
    widest = np.zeros_like(ranges)
    np.maximum.at(widest, heads[among], ranges[among])
    return widest[heads]
