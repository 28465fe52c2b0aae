"""What the files of BEiT and of SimMIM's ViT have in common: timm's Beit, with tables of indices saved beside it.

Source: Bao et al., "BEiT: BERT Pre-Training of Image Transformers", ICLR 2022, arXiv:2106.08254, released code, on
which that of SimMIM is built.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from edgemim.errors import CheckpointError, ConfigError
from edgemim.models.adapters.beit import unshare_bias
from edgemim.models.checkpoint import Checkpoint
from edgemim.models.layouts import _base as base
from edgemim.models.layouts._base import Asked, Reading

# Width, depth and patch of published models, for files without a table of biases, which shows the heads.
_KNOWN = {(768, 12, 16): "beit_base_patch16_224", (1024, 24, 16): "beit_large_patch16_224"}
_SHARED, _OWN = "rel_pos_bias.", "blocks.0.attn."
_TABLE, _INDEX = "relative_position_bias_table", "relative_position_index"
_JOINT = "blocks.0.attn.qkv.bias"  # here queries and values have one each
_BOTH = ("weight", "bias")
_NAMES = (
    "cls_token",
    "pos_embed",
    _SHARED + _TABLE,
    *(f"{part}.{what}" for part in ("patch_embed.proj", "norm", "fc_norm", "head") for what in _BOTH),
    *(f"blocks.N.{part}.{what}" for part in ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2") for what in _BOTH),
    *(f"blocks.N.attn.{what}" for what in ("qkv.weight", "q_bias", "v_bias", _TABLE)),
    *(f"blocks.N.gamma_{i}" for i in (1, 2)),
)


def read_family(
    state: Mapping[str, Tensor], asked: Asked, *, layout: str, beside: Mapping[str, Tensor], name: str = ""
) -> Reading:
    """A file of the family, without its predictor.

    A table that all blocks share becomes one in each block if the user sets `use_rel_pos_bias`.

    Args:
        state: The file.
        asked: By the user.
        layout: For messages.
        beside: Tensors of the file that the caller takes care of.
        name: timm architecture, where the user named none and the caller knows better.

    Raises:
        CheckpointError: It does not fit.
        ConfigError: More has to be known about it.
    """
    indices = {}
    if asked.arguments.get("use_rel_pos_bias") is True and not asked.arguments.get("use_shared_rel_pos_bias"):
        indices = {k: v for k, v in state.items() if k == _SHARED + _INDEX}
        state = unshare_bias({}, {k: v for k, v in state.items() if k not in indices})[1]
    name, arguments = _encoder_of(state, asked, layout, name)
    model: Any = base.build_of_type(_beit(), name, arguments, base.classes_of(state), layout=layout)
    tables = _tables(model)
    if indices:
        tables[_SHARED + _INDEX] = tables[_OWN + _INDEX]
    base.load_renamed(model, {**state, **indices}, source=asked.source, beside=beside, computed=tables)
    return Reading(architecture=name, arguments=arguments, model=model, num_classes=model.num_classes)


def write_family(checkpoint: Checkpoint, *, layout: str) -> dict[str, Tensor]:
    """The encoder and its tables of indices by the authors' names.

    Raises:
        CheckpointError: The backbone is none of timm's BEiT, or has parts that the authors' has not.
    """
    base.refuse_other_type(_beit(), checkpoint, layout=layout)
    base.refuse_strange(checkpoint.model, layout, _NAMES)
    return {**checkpoint.model.state_dict(), **_tables(checkpoint.model)}


def _encoder_of(state: Mapping[str, Tensor], asked: Asked, layout: str, name: str) -> tuple[str, dict[str, Any]]:
    """timm name and timm arguments, as far as the tensors tell."""
    shape_of = functools.partial(base.shape_of, state, layout=layout, source=asked.source)
    width = shape_of("cls_token", 3)[-1]
    patch = shape_of("patch_embed.proj.weight", 4)[-1]
    depth = base.depth_of(state)
    if _JOINT in state:
        raise CheckpointError(f"{asked.source} is not of the layout {layout!r}: it holds {_JOINT}, as a plain ViT does")
    told: dict[str, Any] = {
        "patch_size": patch,
        "embed_dim": width,
        "depth": depth,
        "mlp_ratio": shape_of("blocks.0.mlp.fc1.weight", 2)[0] / width,
        "qkv_bias": "blocks.0.attn.q_bias" in state,
        "init_values": 0.1 if "blocks.0.gamma_1" in state else 0.0,  # 0: no such tensors; None would be timm's own
        "use_abs_pos_emb": "pos_embed" in state,
        "use_rel_pos_bias": _OWN + _TABLE in state,
        "use_shared_rel_pos_bias": _SHARED + _TABLE in state,
        "global_pool": "avg" if "fc_norm.weight" in state else "token",
    }
    tables = [k + _TABLE for k in (_SHARED, _OWN) if k + _TABLE in state]
    if tables:
        told["num_heads"] = shape_of(tables[0], 2)[1]
    name = asked.backbone or name or _KNOWN.get((width, depth, patch), "beit_base_patch16_224" if tables else "")
    if not name:
        raise ConfigError(
            f"{asked.source} has {depth} blocks of width {width}, which is none of the published models, and does "
            "not say how many heads they have; name a BEiT with --backbone and add --set backbone.num_heads=N"
        )
    side = None
    if "pos_embed" in state:
        side = base.square_side(shape_of("pos_embed", 3)[1] - 1)
    elif tables:
        across = base.square_side(shape_of(tables[0], 2)[0] - 3)
        side = (across + 1) // 2 if across else None
    if side is not None:
        told["img_size"] = side * patch
    return name, {**told, **asked.arguments}


def _tables(model: nn.Module) -> dict[str, Tensor]:
    """The indices into the tables of biases, which timm computes and the authors save."""
    return {name: buffer for name, buffer in model.named_buffers() if name.endswith(_INDEX)}


def _beit() -> type[nn.Module]:
    from timm.models.beit import Beit

    beit: type[nn.Module] = Beit
    return beit
