"""Checkpoints of SimMIM: ViT and Swin, pretrained with mask token and linear head, or fine-tuned.

Source: Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling", CVPR 2022, arXiv:2111.09886, released
    code.
Differs: tables of indices and masks are left out and computed again; a table of biases that all blocks share stays
    one, unless backbone.use_rel_pos_bias=true asks for one in each block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from edgemim.models.checkpoint import Checkpoint
from edgemim.models.layouts import LAYOUTS, _beit_family, _swin_family
from edgemim.models.layouts._base import Asked, Layout, Reading, Written, depth_of, encoder_first, shape_of
from edgemim.models.layouts._mae_family import CONTRACT

# The authors' pretraining model has these two parts; one that was fine-tuned is the encoder alone.
_ENCODER = "encoder."
# Our name of a tensor of the predictor to the file's, without `encoder.`.
_PREDICTOR = {"mask_token": "mask_token", "head.weight": "decoder.0.weight", "head.bias": "decoder.0.bias"}


class SimMIMLayout(Layout):
    """See the module."""

    def read(self, state: Mapping[str, Tensor], asked: Asked) -> Reading:
        state = encoder_first(state, "patch_embed.proj.weight")
        swin = _swin_family.is_swin(state)
        beside = _shapes(state, swin, asked.source) if any(n in state for n in _PREDICTOR.values()) else {}
        read = _swin_family.read_family if swin else _beit_family.read_family
        reading = read(state, asked, layout="simmim", beside=beside)
        predictor = {ours: state[theirs] for ours, theirs in _PREDICTOR.items() if theirs in beside}
        return dataclasses.replace(reading, predictor=predictor, contract=CONTRACT)

    def write(self, checkpoint: Checkpoint) -> Written:
        swin = _swin_family.is_timms_swin(checkpoint.model)
        write = _swin_family.write_family if swin else _beit_family.write_family
        encoder = write(checkpoint, layout="simmim")
        held = checkpoint.predictor()
        shapes = _shapes(encoder, swin, str(checkpoint.artifact.path))
        predictor = {theirs: held[ours] for ours, theirs in _PREDICTOR.items() if ours in held}
        if {name: t.shape for name, t in predictor.items()} != {name: t.shape for name, t in shapes.items()}:
            return Written(encoder)
        mask_token = predictor.pop("mask_token")
        named = {_ENCODER + name: tensor for name, tensor in {**encoder, "mask_token": mask_token}.items()}
        return Written(named | predictor, set(_PREDICTOR))


def _shapes(state: Mapping[str, Tensor], swin: bool, source: str) -> dict[str, Any]:
    """Tensors without values in the shapes of the predictor of an encoder, by the file's names."""
    width, _, _, patch = shape_of(state, "patch_embed.proj.weight", 4, layout="simmim", source=source)
    shrink = 2 ** (depth_of(state, "layers.") - 1) if swin else 1
    outputs = 3 * (patch * shrink) ** 2
    shapes = {
        "mask_token": (1, 1, width),
        "decoder.0.weight": (outputs, width * shrink, 1, 1),
        "decoder.0.bias": (outputs,),
    }
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


LAYOUTS.add("simmim", SimMIMLayout)
