"""The encoder of DALL-E's discrete autoencoder, from a local file: the code of each 8 x 8 pixels of an image.

Source: Ramesh et al., "Zero-Shot Text-to-Image Generation", ICML 2021, arXiv:2102.12092, section 2.1; as a target of
    masked pretraining: Bao et al., "BEiT", arXiv:2106.08254.
Differs: everything is computed in float32; the public encoder takes half precision on a GPU for all but its last layer.
    Names, layers and the mapping of pixels are those of its published code.
"""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemim.errors import CheckpointError
from edgemim.models.weights import load_matching, read_state_dict

# Pixels on a side that one code stands for.
CODE_SIDE = 8

_BLOCKS_PER_GROUP = 2
_FACTORS = (1, 1, 2, 4, 8)
_BLOCKS = _BLOCKS_PER_GROUP * (len(_FACTORS) - 1)
# Pixels are mapped from [0, 1] into [0.1, 0.9], as its own training did.
_MARGIN = 0.1
_FIRST, _LAST = "blocks.input.weight", "blocks.output.conv.weight"


class Tokenizer(nn.Module):
    """A 7 x 7 convolution, four groups of two residual blocks with max-pooling between them, one logit for each code.

    Args:
        width: Channels of the first convolution and the first group; the others have 2, 4 and 8 times as many.
        vocabulary: Codes that there are.
    """

    def __init__(self, width: int = 256, vocabulary: int = 8192) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        groups = {
            f"group_{number}": _group(width * before, width * factor, pools=number > 1)
            for number, (before, factor) in enumerate(itertools.pairwise(_FACTORS), start=1)
        }
        output = OrderedDict(relu=nn.ReLU(), conv=_convolution(width * _FACTORS[-1], vocabulary, 1))
        self.blocks = nn.Sequential(
            OrderedDict(input=_convolution(3, width, 7), **groups, output=nn.Sequential(output))
        )

    @torch.no_grad()
    def forward(self, colours: Tensor) -> Tensor:
        """int64 [B, H / 8 * W / 8]: the most likely code of each 8 x 8 pixels, in row-major order.

        Args:
            colours: float32 [B, 3, H, W], in [0, 1]; H and W are multiples of 8.
        """
        # Rounded products would change which code is the most likely one.
        with torch.autocast(colours.device.type, enabled=False):
            logits: Tensor = self.blocks(_MARGIN + (1 - 2 * _MARGIN) * colours.float())
        return logits.argmax(dim=1).flatten(1)


def load_tokenizer(path: str) -> Tokenizer:
    """A frozen tokenizer.

    Its weights are buffers that no saved state holds: they are in the file, and nothing here learns.

    Args:
        path: A state dict as `.safetensors`, or as `.pth` and the like, which is read without running code. Names are
            those of `Tokenizer`, or those of the public module, which end in `.w` and `.b` instead of `.weight` and
            `.bias`: `blocks.input.w`, `blocks.group_1.block_1.res_path.conv_1.b`, `blocks.group_2.block_1.id_path.w`,
            `blocks.output.conv.w`. (What is published is the pickled module; save the `state_dict()` of it.)

    Raises:
        CheckpointError: It does not exist, cannot be read, or holds something else.
    """
    found = {_own_name(name): tensor.float() for name, tensor in read_state_dict(Path(path)).items()}
    first, last = found.get(_FIRST), found.get(_LAST)
    if first is None or last is None or not first.dim() == last.dim() == 4 or first.shape[0] < 4:
        raise CheckpointError(
            f"tokenizer {path} has no tensors {_FIRST} and {_LAST} of four dimensions; "
            "give the state dict of the encoder of DALL-E's discrete autoencoder"
        )
    tokenizer = Tokenizer(width=first.shape[0], vocabulary=last.shape[0])
    load_matching(tokenizer, found, source=f"tokenizer {path}")
    for module in list(tokenizer.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach(), persistent=False)
    return tokenizer


class _Residual(nn.Module):
    """Four convolutions behind a ReLU each, added in small to what came in."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        hidden = width // 4
        shapes = [(inputs, hidden, 3), (hidden, hidden, 3), (hidden, hidden, 3), (hidden, width, 1)]
        self.id_path = _convolution(inputs, width, 1) if inputs != width else nn.Identity()
        self.res_path = nn.ModuleDict({f"conv_{i}": _convolution(*s) for i, s in enumerate(shapes, start=1)})

    def forward(self, x: Tensor) -> Tensor:
        change = x
        for convolution in self.res_path.values():
            change = convolution(F.relu(change))
        out: Tensor = self.id_path(x) + change / _BLOCKS**2
        return out


def _group(inputs: int, width: int, *, pools: bool) -> nn.Module:
    blocks = {f"block_{i + 1}": _Residual(width if i else inputs, width) for i in range(_BLOCKS_PER_GROUP)}
    return nn.Sequential(OrderedDict(pool=nn.MaxPool2d(2) if pools else nn.Identity(), **blocks))


def _convolution(inputs: int, outputs: int, side: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, padding=side // 2)


def _own_name(name: str) -> str:
    return re.sub(r"\.b$", ".bias", re.sub(r"\.w$", ".weight", name))
