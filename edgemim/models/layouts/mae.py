"""Checkpoints of MAE: pretrained with or without the decoder, fine-tuned with a class token or an average.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377, released code.
Differs: the decoder's fixed positions are left out and computed again; the number of its heads is in no file and
    taken to be 16, that of every published one, unless method.decoder_heads says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from edgemim.models.checkpoint import Checkpoint
from edgemim.models.layouts import LAYOUTS
from edgemim.models.layouts._base import Asked, Layout, Reading, Written, encoder_first
from edgemim.models.layouts._mae_family import read_family, write_family


class MAELayout(Layout):
    """See the module."""

    has_decoder = True

    def read(self, state: Mapping[str, Tensor], asked: Asked) -> Reading:
        return read_family(encoder_first(state, "cls_token"), asked, layout="mae")

    def write(self, checkpoint: Checkpoint) -> Written:
        return write_family(checkpoint, layout="mae")


LAYOUTS.add("mae", MAELayout)
