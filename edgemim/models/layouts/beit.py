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

from torch import Tensor

from edgemim.models.checkpoint import Checkpoint
from edgemim.models.layouts import LAYOUTS, _beit_family
from edgemim.models.layouts._base import Asked, Layout, Reading, Written, encoder_first

_SECOND = ("cls_pt_layers.", "cls_pt_norm.", "cls_pt_lm_head.")
_PREDICTOR = ("mask_token", "lm_head.", *_SECOND)


class BEiTLayout(Layout):
    """See the module."""

    def read(self, state: Mapping[str, Tensor], asked: Asked) -> Reading:
        state = encoder_first(state, "cls_token")
        predictor = {name: tensor for name, tensor in state.items() if name.startswith(_PREDICTOR)}
        second = any(name.startswith(_SECOND) for name in state)
        reading = _beit_family.read_family(
            state, asked, layout="beit", beside=predictor, name=_second_name(state) if second else ""
        )
        return dataclasses.replace(reading, predictor=predictor)

    def write(self, checkpoint: Checkpoint) -> Written:
        predictor = {k: v for k, v in checkpoint.predictor().items() if k.startswith(_PREDICTOR)}
        return Written({**_beit_family.write_family(checkpoint, layout="beit"), **predictor}, set(predictor))


def _second_name(state: Mapping[str, Tensor]) -> str:
    wide = "cls_token" in state and state["cls_token"].shape[-1:] == (1024,)
    return f"beitv2_{'large' if wide else 'base'}_patch16_224"


LAYOUTS.add("beit", BEiTLayout)
