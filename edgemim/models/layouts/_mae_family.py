"""What the files of MAE and of methods built on it have in common: a plain ViT, and a decoder under `decoder_*`.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377, the released
pretraining, "visualize" and fine-tuned checkpoints.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgemim.errors import CheckpointError, ConfigError
from edgemim.models.checkpoint import Checkpoint
from edgemim.models.decoder import MAEDecoder
from edgemim.models.layouts import _base as base
from edgemim.models.layouts._base import Asked, Reading, Written
from edgemim.models.positions import sincos_positions
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD

# The authors normalise by ImageNet's statistics and test on the middle 224 of 256 pixels.
CONTRACT = {
    "mean": list(IMAGENET_MEAN),
    "std": list(IMAGENET_STD),
    "crop_ratio": 224 / 256,
    "interpolation": "bicubic",
}

# Width, depth and patch of the published encoders; their heads are not in a file.
_KNOWN = {
    (192, 12, 16): "vit_tiny_patch16_224",
    (384, 12, 16): "vit_small_patch16_224",
    (768, 12, 16): "vit_base_patch16_224",
    (1024, 24, 16): "vit_large_patch16_224",
    (1280, 32, 14): "vit_huge_patch14_224",
}
_POSITIONS = "decoder_pos_embed"
# Beginnings of the decoder's names in our predictor, and in a file.
_DECODER = {
    "pixels.decoder.embed.": "decoder_embed.",
    "pixels.decoder.mask_token": "mask_token",
    "pixels.decoder.blocks.": "decoder_blocks.",
    "pixels.decoder.norm.": "decoder_norm.",
    "pixels.decoder.predict.": "decoder_pred.",
}
_BOTH = ("weight", "bias")
_ENCODER = (
    "cls_token",
    "pos_embed",
    *(f"{part}.{what}" for part in ("patch_embed.proj", "norm", "fc_norm", "head") for what in _BOTH),
    *(
        f"blocks.N.{part}.{what}"
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for what in _BOTH
    ),
)


def read_family(
    state: Mapping[str, Tensor], asked: Asked, *, layout: str, beside: Mapping[str, Tensor] | None = None
) -> Reading:
    """A file of the family; its decoder's settings are among the facts.

    Args:
        state: The file.
        asked: By the user.
        layout: For messages.
        beside: Tensors of the file that the caller takes care of.

    Raises:
        CheckpointError: It does not fit.
        ConfigError: More has to be known about it.
    """
    name, arguments = _encoder_of(state, asked, layout)
    model: Any = base.build_of_type(_vit(), name, arguments, base.classes_of(state), layout=layout)
    decoder, settings = _decoder_of(state, asked, layout, model)
    tables = {} if decoder is None else {_POSITIONS: _positions(settings["decoder_width"], model)}
    shapes = {} if decoder is None else {f"pixels.decoder.{k}": v for k, v in decoder.state_dict().items()}
    base.load_renamed(
        model,
        state,
        source=asked.source,
        beside={theirs(k): v for k, v in shapes.items()} | dict(beside or {}),
        computed=tables,
    )
    return Reading(
        architecture=name,
        arguments=arguments,
        model=model,
        num_classes=model.num_classes,
        predictor={ours: state[theirs(ours)] for ours in shapes},
        contract=CONTRACT,
        facts={"method": settings} if settings else {},
    )


def write_family(checkpoint: Checkpoint, *, layout: str) -> Written:
    """The encoder, and the decoder where the checkpoint has one, by the authors' names.

    Raises:
        CheckpointError: The backbone is no plain ViT with a class token and a position for it.
    """
    model: Any = checkpoint.model
    base.refuse_other_type(_vit(), checkpoint, layout=layout)
    base.refuse_strange(model, layout, _ENCODER)
    if model.cls_token is None or model.pos_embed is None or model.no_embed_class:
        raise CheckpointError(
            f"the layout {layout!r} has a class token and a position for it; {checkpoint.artifact.path} has not"
        )
    tensors = dict(model.state_dict())
    decoder = {k: v for k, v in checkpoint.predictor().items() if k.startswith(tuple(_DECODER))}
    tensors |= {theirs(name): tensor for name, tensor in decoder.items()}
    if decoder:
        tensors[_POSITIONS] = _positions(decoder["pixels.decoder.mask_token"].shape[-1], model)
    return Written(tensors, set(decoder))


def theirs(name: str) -> str:
    """A name in our predictor as the authors' files have it."""
    beginning = next(ours for ours in _DECODER if name.startswith(ours))
    return _DECODER[beginning] + name[len(beginning) :]


def _encoder_of(state: Mapping[str, Tensor], asked: Asked, layout: str) -> tuple[str, dict[str, Any]]:
    """timm name and timm arguments, as far as the tensors tell."""
    shape_of = functools.partial(base.shape_of, state, layout=layout, source=asked.source)
    width = shape_of("cls_token", 3)[-1]
    patch = shape_of("patch_embed.proj.weight", 4)[-1]
    tokens = shape_of("pos_embed", 3)[1]
    depth = base.depth_of(state)
    name = asked.backbone or _KNOWN.get((width, depth, patch), "")
    if not name:
        raise ConfigError(
            f"{asked.source} has {depth} blocks of width {width} and patches of {patch} pixels, which is none of "
            "the published models, and does not say how many heads they have; name a ViT with --backbone and add "
            "--set backbone.num_heads=N"
        )
    told: dict[str, Any] = {"patch_size": patch, "embed_dim": width, "depth": depth}
    side = base.square_side(tokens - 1)
    if side is not None:
        told["img_size"] = side * patch
    elif "img_size" not in asked.arguments:
        raise ConfigError(
            f"{asked.source} has positions for {tokens - 1} patches, which are no square; "
            "add --set 'backbone.img_size=[HEIGHT,WIDTH]'"
        )
    if "fc_norm.weight" in state and "norm.weight" not in state:
        told["global_pool"] = "avg"
    return name, {**told, **asked.arguments}


def _decoder_of(
    state: Mapping[str, Tensor], asked: Asked, layout: str, encoder: Any
) -> tuple[MAEDecoder | None, dict[str, Any]]:
    """A decoder without weights in the shape of the file's, and the settings of `mae` that make it."""
    if not any(name.startswith(tuple(_DECODER.values())) for name in state):
        return None, {}
    width = base.shape_of(state, "mask_token", 3, layout=layout, source=asked.source)[-1]
    depth, heads = base.depth_of(state, "decoder_blocks."), asked.decoder_heads or 16
    height, breadth = encoder.patch_embed.patch_size
    try:
        with torch.device("meta"):
            decoder = MAEDecoder(
                encoder.embed_dim,
                encoder.patch_embed.grid_size,
                3 * height * breadth,
                width=width,
                depth=depth,
                heads=heads,
            )
    except ConfigError as error:
        raise ConfigError(f"{error}; a file does not say its heads: add --set method.decoder_heads=N") from error
    return decoder, {"decoder_width": width, "decoder_depth": depth, "decoder_heads": heads}


def _positions(width: int, encoder: Any) -> Tensor:
    """The decoder's fixed table, [1, 1 + L, width], in an encoder's grid."""
    return sincos_positions(width, encoder.patch_embed.grid_size, 1)[None]


def _vit() -> type[nn.Module]:
    from timm.models.vision_transformer import VisionTransformer

    vit: type[nn.Module] = VisionTransformer
    return vit
