"""State dicts of timm's own names: the backbone, with its classifier where it has one.

Source: Wightman, "PyTorch Image Models", https://github.com/huggingface/pytorch-image-models.
Differs: what a pretraining file holds beside the encoder (decoder, mask token) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.models.build import build_backbone
from edgemim.models.checkpoint import Checkpoint
from edgemim.models.layouts import LAYOUTS
from edgemim.models.layouts._base import Asked, Layout, Reading, Written, encoder_first
from edgemim.models.weights import build_fitting, load_matching

# What pretraining files hold beside the encoder.
_PREDICTOR = ("decoder_", "decoder.", "mask_token")


class TimmLayout(Layout):
    """See the module."""

    nested = False

    def read(self, state: Mapping[str, Tensor], asked: Asked) -> Reading:
        if not asked.backbone:
            raise ConfigError("a state dict does not say what it is; name its architecture with --backbone")
        anchor = next(iter(build_backbone(asked.backbone, asked.arguments).state_dict()))
        state = encoder_first(state, anchor)
        model, arguments, classes = build_fitting(asked.backbone, asked.arguments, state, with_head=True)
        load_matching(model, state, source=asked.source, ignore=_PREDICTOR)
        return Reading(architecture=asked.backbone, arguments=arguments, model=model, num_classes=classes)

    def write(self, checkpoint: Checkpoint) -> Written:
        return Written(checkpoint.model.state_dict())


LAYOUTS.add("timm", TimmLayout)
