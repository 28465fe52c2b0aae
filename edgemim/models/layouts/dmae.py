"""Checkpoints of DMAE: those of MAE, with one projector for each pair of matched blocks.

Source: Bai et al., "Masked Autoencoders Enable Efficient Knowledge Distillers", CVPR 2023, arXiv:2208.12256,
    released code.
Differs: as in the layout mae; the weights of a teacher are not in these files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from edgemim.errors import CheckpointError, first_of
from edgemim.models.checkpoint import Checkpoint
from edgemim.models.layouts import LAYOUTS
from edgemim.models.layouts._base import Asked, Layout, Reading, Written, encoder_first
from edgemim.models.layouts._mae_family import read_family, write_family

_HEADS, _PROJECTORS = "aligned_feature_projection_heads.", "projectors."
# The linear layers of one projector, in order: our name of it and the file's, by the method's name of the kind.
_KINDS = {
    "linear": (("", ""),),
    "mlp": (("0.", "fc1."), ("2.", "fc2.")),
    "mlp2": (("0.", "0.fc1."), ("2.", "0.fc2."), ("3.", "1.fc1."), ("5.", "1.fc2.")),
}


class DMAELayout(Layout):
    """See the module."""

    has_decoder = True

    def read(self, state: Mapping[str, Tensor], asked: Asked) -> Reading:
        state = encoder_first(state, "cls_token")
        heads = {name: tensor for name, tensor in state.items() if name.startswith(_HEADS)}
        reading = read_family(state, asked, layout="dmae", beside=heads)
        if not heads:
            return reading
        kind, names = _names(heads, asked.source)
        projectors = {ours: state[theirs] for ours, theirs in names.items()}
        model: Any = reading.model
        _check_chain(projectors, kind, model.embed_dim, asked.source)
        settings = {**reading.facts.get("method", {}), "projector": kind}
        return dataclasses.replace(
            reading, predictor={**reading.predictor, **projectors}, facts={**reading.facts, "method": settings}
        )

    def write(self, checkpoint: Checkpoint) -> Written:
        written = write_family(checkpoint, layout="dmae")
        projectors = {k: v for k, v in checkpoint.predictor().items() if k.startswith(_PROJECTORS)}
        if not projectors:
            return written
        _, names = _names(projectors, str(checkpoint.artifact.path))
        tensors = {theirs: projectors[ours] for ours, theirs in names.items()}
        return Written({**written.tensors, **tensors}, {*written.predictor, *projectors})


def _names(held: Collection[str], source: str) -> tuple[str, dict[str, str]]:
    """The kind of the projectors that have these names, ours or a file's, and our name to the file's of each tensor."""
    for kind, layers in _KINDS.items():
        pairs = len(held) // (2 * len(layers))
        names = {
            f"{_PROJECTORS}{i}.{ours}{what}": f"{_HEADS}{i}.{theirs}{what}"
            for i in range(pairs)
            for ours, theirs in layers
            for what in ("weight", "bias")
        }
        if set(held) in (set(names), set(names.values())):
            return kind, names
    raise CheckpointError(f"{source} has projectors that are none of {', '.join(_KINDS)}: {first_of(sorted(held))}")


def _check_chain(projectors: Mapping[str, Tensor], kind: str, width: int, source: str) -> None:
    """Refuse projectors whose layers do not fit the encoder and each other."""
    for i in range(len(projectors) // (2 * len(_KINDS[kind]))):
        entering = width
        for ours, theirs in _KINDS[kind]:
            weight, bias = (projectors[f"{_PROJECTORS}{i}.{ours}{what}"] for what in ("weight", "bias"))
            if weight.dim() != 2 or weight.shape[1] != entering or bias.shape != weight.shape[:1]:
                raise CheckpointError(
                    f"{source}: {_HEADS}{i}.{theirs}weight {list(weight.shape)} and its bias {list(bias.shape)} "
                    f"do not fit what comes in, which has {entering} channels"
                )
            entering = weight.shape[0]


LAYOUTS.add("dmae", DMAELayout)
