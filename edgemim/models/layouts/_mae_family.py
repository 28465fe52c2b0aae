"""What the files of MAE and of methods built on it have in common: a plain ViT, and a decoder under `decoder_*`.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377, the released
pretraining, "visualize" and fine-tuned checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgemim.errors import CheckpointError, ConfigError
from edgemim.models.build import build_backbone
from edgemim.models.checkpoint import Checkpoint
from edgemim.models.decoder import MAEDecoder
from edgemim.models.layouts import _base as base
from edgemim.models.layouts._base import Asked, Reading
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
) -> tuple[Reading, dict[str, Any]]:
    """A file of the family, and its decoder's settings (empty without a decoder).

    Args:
        state: The file.
        asked: By the user.
        layout: For messages.
        beside: Tensors of the file that the caller takes care of.
    """
    name, arguments, grid = _encoder_of(state, asked, layout)
    decoder, settings = _decoder_of(state, asked, layout, arguments, grid)
    classes = base.classes_of(state)
    model = build_backbone(name, arguments, num_classes=classes)
    tables = {} if decoder is None else {_POSITIONS: sincos_positions(settings["decoder_width"], grid, 1)[None]}
    shapes = {} if decoder is None else {theirs(f"pixels.decoder.{k}"): v for k, v in decoder.state_dict().items()}
    base.load_renamed(model, state, source=asked.source, beside={**shapes, **(beside or {})}, computed=tables)
    predictor = {ours: state[theirs(ours)] for ours in map(_ours, shapes)}
    reading = Reading(
        architecture=name,
        arguments=arguments,
        model=model,
        num_classes=classes,
        predictor=predictor,
        contract=CONTRACT,
        facts={"method": settings} if settings else {},
    )
    return reading, settings


def write_family(checkpoint: Checkpoint, *, layout: str) -> dict[str, Tensor]:
    """The encoder, and the decoder where the checkpoint has one, by the authors' names.

    Raises:
        CheckpointError: The backbone is no plain ViT with a class token and an absolute position table.
    """
    from timm.models.vision_transformer import VisionTransformer

    model: Any = checkpoint.model
    if type(model) is not VisionTransformer or model.cls_token is None or model.pos_embed is None:
        raise CheckpointError(
            f"the layout {layout!r} holds a plain ViT with a class token and positions; "
            f"{checkpoint.artifact.path} is a {checkpoint.architecture}"
        )
    base.refuse_strange(model, layout, _ENCODER)
    tensors = dict(model.state_dict())
    if model.pos_embed.shape[1] != model.patch_embed.num_patches + 1:
        raise CheckpointError(
            f"the layout {layout!r} has a position for the class token; {checkpoint.architecture} has none"
        )
    decoder = {k: v for k, v in checkpoint.predictor().items() if k.startswith(tuple(_DECODER))}
    tensors |= {theirs(name): tensor for name, tensor in decoder.items()}
    if decoder:
        width = decoder["pixels.decoder.mask_token"].shape[-1]
        tensors[_POSITIONS] = sincos_positions(width, model.patch_embed.grid_size, 1)[None]
    return tensors


def theirs(name: str) -> str:
    """A name in our predictor as the authors' files have it."""
    beginning = next(ours for ours in _DECODER if name.startswith(ours))
    return _DECODER[beginning] + name[len(beginning) :]


def _ours(name: str) -> str:
    ours, beginning = next((o, t) for o, t in _DECODER.items() if name.startswith(t))
    return ours + name[len(beginning) :]


def _encoder_of(state: Mapping[str, Tensor], asked: Asked, layout: str) -> tuple[str, dict[str, Any], tuple[int, int]]:
    """timm name, timm arguments and patch grid, as far as the tensors tell."""
    named = {"layout": layout, "source": asked.source}
    width = base.shape_of(state, "cls_token", 3, **named)[-1]
    patch = base.shape_of(state, "patch_embed.proj.weight", 4, **named)[2:]
    tokens = base.shape_of(state, "pos_embed", 3, **named)[1]
    depth = base.depth_of(state)
    name = asked.backbone or _KNOWN.get((width, depth, patch[0]), "")
    if not name:
        raise ConfigError(
            f"{asked.source} has {depth} blocks of width {width} and patches of {patch[0]} pixels, which is none of "
            "the published models, and does not say how many heads they have; name a ViT with --backbone and add "
            "--set backbone.num_heads=N"
        )
    told: dict[str, Any] = {"patch_size": patch[0], "embed_dim": width, "depth": depth}
    side = base.square_side(tokens - 1)
    if side is not None:
        told["img_size"] = side * patch[0]
    elif "img_size" not in asked.arguments:
        raise ConfigError(
            f"{asked.source} has positions for {tokens - 1} patches, which are no square; "
            "add --set 'backbone.img_size=[HEIGHT,WIDTH]'"
        )
    if "fc_norm.weight" in state and "norm.weight" not in state:
        told["global_pool"] = "avg"
    arguments = {**told, **asked.arguments}
    return name, arguments, _grid(arguments)


def _grid(arguments: Mapping[str, Any]) -> tuple[int, int]:
    size, patch = arguments["img_size"], arguments["patch_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return int(height) // int(patch), int(width) // int(patch)


def _decoder_of(
    state: Mapping[str, Tensor], asked: Asked, layout: str, arguments: Mapping[str, Any], grid: tuple[int, int]
) -> tuple[MAEDecoder | None, dict[str, Any]]:
    """A decoder without weights in the shape of the file's, and the settings of `mae` that make it."""
    if not any(name.startswith(tuple(_DECODER.values())) for name in state):
        return None, {}
    width = base.shape_of(state, "mask_token", 3, layout=layout, source=asked.source)[-1]
    depth, heads = base.depth_of(state, "decoder_blocks."), asked.decoder_heads or 16
    try:
        with torch.device("meta"):
            decoder: nn.Module = MAEDecoder(
                arguments["embed_dim"], grid, 3 * arguments["patch_size"] ** 2, width=width, depth=depth, heads=heads
            )
    except ConfigError as error:
        raise ConfigError(f"{error}; a file does not say its heads: add --set method.decoder_heads=N") from error
    return decoder, {"decoder_width": width, "decoder_depth": depth, "decoder_heads": heads}
