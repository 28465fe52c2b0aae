"""Swin as its authors save it: a stage ends in the step to the next one, and tables of indices and masks are kept.

Source: Liu et al., "Swin Transformer", ICCV 2021, arXiv:2103.14030, as the released code of SimMIM uses it. timm
has the step at the beginning of the next stage, its classifier under `head.fc`, and computes the tables.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.checkpoint import Checkpoint
from edgemim.models.layouts import _base as base
from edgemim.models.layouts._base import Asked, Reading

_ARCHITECTURE = "swin_base_patch4_window7_224"
_TABLE = "relative_position_bias_table"
_COMPUTED = ("relative_position_index", "attn_mask")
_BOTH = ("weight", "bias")
_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
_NAMES = (
    *(f"{part}.{what}" for part in ("patch_embed.proj", "patch_embed.norm", "norm", "head.fc") for what in _BOTH),
    *(f"layers.N.blocks.N.{part}.{what}" for part in _BLOCK for what in _BOTH),
    f"layers.N.blocks.N.attn.{_TABLE}",
    *(f"layers.N.downsample.{what}" for what in ("reduction.weight", "norm.weight", "norm.bias")),
)


def is_swin(state: Mapping[str, Tensor]) -> bool:
    """Whether a file holds stages of blocks."""
    return any(name.startswith("layers.0.blocks.") for name in state)


def read_family(state: Mapping[str, Tensor], asked: Asked, *, layout: str, beside: Mapping[str, Tensor]) -> Reading:
    """A file with a Swin, without its predictor.

    Args:
        state: The file.
        asked: By the user.
        layout: For messages.
        beside: Tensors of the file that the caller takes care of.

    Raises:
        CheckpointError: It does not fit.
        ConfigError: More has to be known about it.
    """
    name, arguments = asked.backbone or _ARCHITECTURE, _arguments_of(state, asked, layout)
    model: Any = base.build_of_type(_swin(), name, arguments, base.classes_of(state), layout=layout)
    base.load_renamed(model, state, source=asked.source, rename=_theirs, beside=beside, computed=_tables(model))
    return Reading(architecture=name, arguments=arguments, model=model, num_classes=model.num_classes)


def write_family(checkpoint: Checkpoint, *, layout: str) -> dict[str, Tensor]:
    """The encoder and its tables by the authors' names.

    Raises:
        CheckpointError: The backbone is none of timm's Swin, or has parts that the authors' has not.
    """
    base.refuse_other_type(_swin(), checkpoint, layout=layout)
    base.refuse_strange(checkpoint.model, layout, _NAMES)
    named = {_theirs(name): tensor for name, tensor in checkpoint.model.state_dict().items()}
    return {**named, **_tables(checkpoint.model)}


def is_timms_swin(model: nn.Module) -> bool:
    """Whether a model is the Swin of these files."""
    return type(model) is _swin()


def _theirs(name: str) -> str:
    moved = re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample.", name)
    return re.sub(r"^head\.fc\.", "head.", moved)


def _arguments_of(state: Mapping[str, Tensor], asked: Asked, layout: str) -> dict[str, Any]:
    """timm arguments, as far as the tensors tell."""
    shape_of = functools.partial(base.shape_of, state, layout=layout, source=asked.source)
    width, _, _, patch = shape_of("patch_embed.proj.weight", 4)
    stages = range(base.depth_of(state, "layers."))
    first = "layers.0.blocks.0."
    across = base.square_side(shape_of(f"{first}attn.{_TABLE}", 2)[0]) or 1
    window = (across + 1) // 2
    told: dict[str, Any] = {
        "patch_size": patch,
        "embed_dim": width,
        "depths": [base.depth_of(state, f"layers.{i}.blocks.") for i in stages],
        "num_heads": [shape_of(f"layers.{i}.blocks.0.attn.{_TABLE}", 2)[1] for i in stages],
        "window_size": window,
        "mlp_ratio": shape_of(f"{first}mlp.fc1.weight", 2)[0] / width,
        "qkv_bias": f"{first}attn.qkv.bias" in state,
    }
    mask = "layers.0.blocks.1.attn_mask"
    windows = base.square_side(shape_of(mask, 3)[0]) if mask in state else None
    if windows is not None:
        told["img_size"] = windows * window * patch
    elif "img_size" not in asked.arguments:
        raise ConfigError(f"{asked.source} does not say how large its images are; add --set backbone.img_size=PIXELS")
    return {**told, **asked.arguments}


def _tables(model: nn.Module) -> dict[str, Tensor]:
    """Indices of biases and masks of shifted windows, which timm computes and the authors save."""
    return {name: buffer for name, buffer in model.named_buffers() if name.endswith(_COMPUTED)}


def _swin() -> type[nn.Module]:
    from timm.models.swin_transformer import SwinTransformer

    swin: type[nn.Module] = SwinTransformer
    return swin
