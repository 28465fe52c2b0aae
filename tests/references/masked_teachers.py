"""MaskDistill, MaskAlign and MR-MAE once more: one image, one token and one channel at a time, in float64.

Written from the specification in plain arithmetic, so that autograd gives the gradients; nothing is shared with
edgemim or timm. Encoders and decoders are those of the masked autoencoder's file, which a caller hands over as
`pieces` where a function needs its blocks. Tokens of one image are [N, C].
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Colours = tuple[tuple[float, ...], tuple[float, ...]]

EPS = 1e-5


def other_statistics(image: Tensor, given: Colours, wanted: Colours) -> Tensor:
    """An image [3, H, W] that was normalised by one mean and deviation, normalised by another pair."""
    channels = []
    for channel in range(3):
        colour = image[channel] * given[1][channel] + given[0][channel]
        channels.append((colour - wanted[0][channel]) / wanted[1][channel])
    return torch.stack(channels)


def encode_with_mask_tokens(
    pieces: ModuleType,
    image: Tensor,
    hidden: Collection[int],
    token: Tensor,
    state: State,
    *,
    patch: int,
    heads: int,
    blocks: int,
    prefix: Sequence[str],
) -> Tensor:
    """Patch tokens [L, D] of a ViT that sees `token` in place of the hidden patches."""
    positions, kernel = state["pos_embed"][0], state["patch_embed.proj.weight"].flatten(1)
    rows = [vector for name in prefix for vector in state[name][0]]
    first = len(rows)
    for i, square in enumerate(pieces.patches_of(image, patch, "chw")):
        rows.append(token if i in hidden else kernel @ square + state["patch_embed.proj.bias"])
    x = torch.stack([row + position for row, position in zip(rows, positions, strict=True)])
    for index in range(blocks):
        x = pieces.block(x, state, f"blocks.{index}", heads)
    x = pieces.layer_norm(x, state, "norm") if "norm.weight" in state else x
    return x[first:]


def target(token: Tensor, norm: str) -> Tensor:
    """A teacher's token [C] as the student is to predict it; never learns."""
    token = token.detach()
    if norm == "l2":
        return token / sum(value * value for value in token) ** 0.5
    if norm == "none":
        return token
    mean = sum(token) / len(token)
    variance = sum((value - mean) ** 2 for value in token) / len(token)
    return (token - mean) / (variance + EPS) ** 0.5


def distance(student: Tensor, teacher: Tensor, kind: str, beta: float = 1.0) -> Tensor:
    """Of two tokens [C]: mean over the channels."""
    errors = []
    for a, b in zip(student, teacher, strict=True):
        gap = abs(a - b)
        if kind == "mse":
            errors.append(gap * gap)
        elif gap < beta:
            errors.append(gap * gap / (2 * beta))
        else:
            errors.append(gap - beta / 2)
    return torch.stack(errors).sum() / len(errors)


def feature_loss(
    predictions: Sequence[Tensor],
    teachers: Sequence[Tensor],
    places: Sequence[Collection[int]],
    *,
    norm: str,
    kind: str = "smooth-l1",
    beta: float = 1.0,
) -> Tensor:
    """Mean distance over the tokens `places` of each image, all counted alike; both sides hold all L of them."""
    found = []
    for predicted, taught, ids in zip(predictions, teachers, places, strict=True):
        found += [distance(predicted[i], target(taught[i], norm), kind, beta) for i in sorted(ids)]
    return torch.stack(found).sum() / len(found)


def mix(levels: Sequence[Tensor], row: Tensor) -> Tensor:
    """The sum of the student's levels [N, D], each times its number of one row of the matrix."""
    total = torch.zeros_like(levels[0])
    for weight, tokens in zip(row, levels, strict=True):
        total = total + weight * tokens
    return total


def level_loss(
    students: Sequence[Sequence[Tensor]],
    teachers: Sequence[Tensor],
    row: Tensor,
    head: State,
    *,
    norm: str,
) -> Tensor:
    """Smooth L1 of one level; for each image the student's levels [N, D], and the teacher's tokens [N, C] of it."""
    found = []
    for levels, taught in zip(students, teachers, strict=True):
        predicted = mix(levels, row) @ head["weight"].T + head["bias"]
        found += [distance(a, target(b, norm), "smooth-l1") for a, b in zip(predicted, taught, strict=True)]
    return torch.stack(found).sum() / len(found)


def attention_to_patches(
    pieces: ModuleType, before: Tensor, state: State, name: str, *, heads: int, prefix: int, class_token: bool
) -> list[float]:
    """How much the class token, or without one the mean patch, attends to each patch in block `name`; heads alike.

    `before` [P + L, D] are the tokens that enter the block.
    """
    joint = pieces.linear(pieces.layer_norm(before, state, f"{name}.norm1"), state, f"{name}.attn.qkv")
    width, size = before.shape[1], before.shape[1] // heads
    looking = [0] if class_token else list(range(prefix, len(before)))
    found = [0.0] * (len(before) - prefix)
    for head in range(heads):
        for i in looking:
            query = joint[i, head * size : (head + 1) * size]
            keys = joint[:, width + head * size : width + (head + 1) * size]
            scores = [math.exp(float((query * key).sum()) / math.sqrt(size)) for key in keys]
            for patch, score in enumerate(scores[prefix:]):
                found[patch] += score / sum(scores) / heads / len(looking)
    return found
