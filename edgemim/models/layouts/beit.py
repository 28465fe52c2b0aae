"""Checkpoints of BEiT and BEiT v2: pretrained with mask token and token classifier, or fine-tuned.

Source: Bao et al., "BEiT: BERT Pre-Training of Image Transformers", ICLR 2022, arXiv:2106.08254, and Peng et al.,
    "BEiT v2", arXiv:2208.06366, released code.
Differs: tables of indices are left out and computed again; mask token and token classifier (`lm_head`), and the
    extra layers of BEiT v2, are kept in the predictor under the authors' names; a table of biases that all blocks
    share stays one, unless backbone.use_rel_pos_bias=true asks for one in each block; the statistics of the images
    are timm's for the architecture, so a fine-tuned BEiT v2 needs --backbone beitv2_base_patch16_224.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from edgemim.models.checkpoint import Checkpoint
from edgemim.models.layouts import LAYOUTS, _beit_family
from edgemim.models.layouts._base import Asked, Layout, Reading, Written, classes_of, encoder_first, shape_of

_SECOND = ("cls_pt_layers.", "cls_pt_norm.", "cls_pt_lm_head.")
_PREDICTOR = ("mask_token", "lm_head.", *_SECOND)


class BEiTLayout(Layout):
    """See the module."""

    def read(self, state: Mapping[str, Tensor], asked: Asked) -> Reading:
        state = encoder_first(state, "cls_token")
        predictor = {name: tensor for name, tensor in state.items() if name.startswith(_PREDICTOR)}
        width = shape_of(state, "cls_token", 3, layout="beit", source=asked.source)[-1]
        second = any(name.startswith(_SECOND) for name in predictor)
        reading = _beit_family.read_family(
            state,
            asked,
            layout="beit",
            beside={name: _wanted(name, state, width) for name in predictor},
            name=f"beitv2_{'large' if width == 1024 else 'base'}_patch16_224" if second else "",
        )
        return dataclasses.replace(reading, predictor=predictor)

    def write(self, checkpoint: Checkpoint) -> Written:
        predictor = {k: v for k, v in checkpoint.predictor().items() if k.startswith(_PREDICTOR)}
        return Written({**_beit_family.write_family(checkpoint, layout="beit"), **predictor}, set(predictor))


def _wanted(name: str, state: Mapping[str, Tensor], width: int) -> Tensor:
    """A tensor of the shape that one of the predictor has: its own for the extra layers, which nothing here uses."""
    tokens = classes_of(state, "lm_head.weight")
    known = {"mask_token": (1, 1, width), "lm_head.weight": (tokens, width), "lm_head.bias": (tokens,)}
    return torch.empty(known.get(name, state[name].shape), device="meta")


LAYOUTS.add("beit", BEiTLayout)
