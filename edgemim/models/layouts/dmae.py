"""Checkpoints of DMAE: those of MAE, with one projector for each pair of matched blocks.

Source: Bai et al., "Masked Autoencoders Enable Efficient Knowledge Distillers", CVPR 2023, arXiv:2208.12256,
    released code.
Differs: as in the layout mae; the weights of a teacher are not in these files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from edgemim.errors import CheckpointError
from edgemim.models.checkpoint import Checkpoint
from edgemim.models.layouts import LAYOUTS
from edgemim.models.layouts._base import Asked, Layout, Reading, depth_of
from edgemim.models.layouts._mae_family import read_family, write_family

_HEADS, _PROJECTORS = "aligned_feature_projection_heads.", "projectors."
# Modules of one projector in a file and in our `projectors.N`, by our name of its kind.
_KINDS = {
    "linear": {"": ""},
    "mlp": {"fc1.": "0.", "fc2.": "2."},
    "mlp2": {"0.fc1.": "0.", "0.fc2.": "2.", "1.fc1.": "3.", "1.fc2.": "5."},
}


class DMAELayout(Layout):
    """See the module."""

    has_decoder = True

    def read(self, state: Mapping[str, Tensor], asked: Asked) -> Reading:
        heads = {name: tensor for name, tensor in state.items() if name.startswith(_HEADS)}
        reading, settings = read_family(state, asked, layout="dmae", beside=heads)
        if not heads:
            return reading
        kind, modules = _kind(set(heads), _HEADS, left=True, source=asked.source)
        renamed = {_HEADS + f"{i}." + theirs: _PROJECTORS + f"{i}." + ours for i, theirs, ours in modules}
        projectors = {renamed[name.rpartition(".")[0] + "."] + name.rpartition(".")[2]: t for name, t in heads.items()}
        return dataclasses.replace(
            reading,
            predictor={**reading.predictor, **projectors},
            facts={"method": {**settings, "projector": kind}},
        )

    def write(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        tensors = write_family(checkpoint, layout="dmae")
        projectors = {k: v for k, v in checkpoint.predictor().items() if k.startswith(_PROJECTORS)}
        if not projectors:
            return tensors
        _, modules = _kind(set(projectors), _PROJECTORS, left=False, source=str(checkpoint.artifact.path))
        renamed = {_PROJECTORS + f"{i}." + ours: _HEADS + f"{i}." + theirs for i, theirs, ours in modules}
        return tensors | {
            renamed[name.rpartition(".")[0] + "."] + name.rpartition(".")[2]: t for name, t in projectors.items()
        }


LAYOUTS.add("dmae", DMAELayout)
