"""Put the affine of a LayerNormalization into the linear layers that read it.

`W (gamma n + beta) + b` is `(W gamma) n + (W beta + b)`: gamma scales the columns of the weights, beta adds to the
bias. The node stays one LayerNormalization, with scale 1 and bias 0, which OpenVINO computes in one kernel, not two.

For INT8 this evens out what the linear layers read: gamma makes much of the difference between channels, and the
weights bear that better, with one scale per output. Not so where gamma is small for a channel because n is large there
(Sun et al., "Massive Activations in Large Language Models", COLM 2024, arXiv:2402.17762, section 5): one scale for all
of n would be coarser than before. Weights do not tell how large n is, so a norm that suppresses any channel keeps its
affine.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgemim.export.passes._channels import WEIGHTS, Labels, Source, follow_channels
from edgemim.export.passes._linear import Doubles, Linear, find_linear
from edgemim.export.passes._moves import LAYOUT

# Ops that only move values: what is added to a channel before them could be added after them.
_MOVES = (*LAYOUT, "Concat", "Gather", "Pad", "Slice", "Split")

# A channel is suppressed when its gamma is below this share of the median.
_SUPPRESSED = 0.5


def fold_layer_norm(model: ir.Model) -> ir.Model:
    """Fold the affine of every LayerNormalization that only linear layers with a bias read, and that is even enough."""
    channels = follow_channels(model)
    for source in channels.sources:
        node = source.weight.node
        alone = (channels.uses[source.labels] == WEIGHTS).all()
        if node.op_type != "LayerNormalization" or not alone or not _is_even(source.weight.read()):
            continue
        readers = [(linear, labels) for linear, labels in channels.readers if np.isin(labels, source.labels).any()]
        if _is_only_moved(node.outputs[0]) and all(_takes(linear, labels, source) for linear, labels in readers):
            _fold(source, readers)
    return model


def _is_even(gamma: Doubles) -> bool:
    return bool(np.abs(gamma).min() >= _SUPPRESSED * np.median(np.abs(gamma)))


def _is_only_moved(value: ir.Value) -> bool:
    """Whether a value reaches linear layers without being added to anything, scaled or reduced."""
    readers = [use.node for use in value.uses()]
    return all(
        find_linear(node) is not None or (node.op_type in _MOVES and all(map(_is_only_moved, node.outputs)))
        for node in readers
    )


def _takes(linear: Linear, labels: Labels, source: Source) -> bool:
    """Whether all that a layer reads is of this norm, and it has a bias that can take beta."""
    attributes = linear.weight.node.attributes
    # Around the image, a Conv with padding would have to read beta, not 0.
    padded = any(attributes.get_ints("pads", ())) or attributes.get_string("auto_pad", "NOTSET").startswith("SAME")
    return linear.bias is not None and not padded and bool(np.isin(labels, source.labels).all())


def _fold(source: Source, readers: list[tuple[Linear, Labels]]) -> None:
    gamma = source.weight.read()
    beta = np.zeros_like(gamma) if source.bias is None else source.bias.read()
    for linear, labels in readers:
        channels = labels - source.labels[0]
        assert linear.inputs is not None
        assert linear.bias is not None
        weights = np.moveaxis(linear.inputs.read(), linear.inputs.axis, 0)
        shift = np.tensordot(beta[channels], weights, axes=1)
        bias = linear.bias.read()
        linear.bias.write(bias + shift.reshape(len(shift), -1).sum(axis=1).reshape(bias.shape))
        linear.inputs.scale(gamma[channels])
    source.weight.write(np.ones_like(gamma))
    if source.bias is not None:
        source.bias.write(np.zeros_like(gamma))
