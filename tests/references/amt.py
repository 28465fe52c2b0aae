"""AMT once more: one image, one head and one patch at a time, in float64, written from the specification.

Plain tensor arithmetic, so that autograd gives the gradients; nothing is shared with edgemim or timm. `pieces` is the
masked autoencoder's file, of which the encoder and its blocks are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def salience(
    pieces: ModuleType,
    image: Tensor,
    state: State,
    *,
    patch: int,
    heads: int,
    blocks: int,
    prefix: Sequence[str],
) -> Tensor:
    """How much the last block looks at each patch [L]: its class token, or all patches where there is none."""
    patches = len(pieces.patches_of(image, patch, "chw"))
    before = pieces.encode(image, range(patches), state, patch=patch, heads=heads, blocks=blocks, prefix=prefix)
    x = before[blocks - 2]
    first = len(x) - patches
    name = f"blocks.{blocks - 1}"
    joint = pieces.linear(pieces.layer_norm(x, state, f"{name}.norm1"), state, f"{name}.attn.qkv")
    width = x.shape[1]
    size = width // heads
    maps = []
    for head in range(heads):
        query, key = (joint[:, s * width + head * size : s * width + (head + 1) * size] for s in (0, 1))
        looks = []
        for row in [0] if "cls_token" in prefix else range(first, len(x)):
            scores = torch.exp(query[row] @ key.T / math.sqrt(size))
            looks.append((scores / scores.sum())[first:])
        look = sum(looks) / len(looks)
        maps.append((look - look.min()) / (look.max() - look.min()))
    return sum(maps) / len(maps)


def crop_map(values: Tensor, box: Sequence[float], mirrored: bool, size: tuple[int, int]) -> Tensor:
    """A map [h, w] under a crop (top, left, height, width as shares): each new cell's mean over what it shows."""
    rows, columns = values.shape
    top, left, tall, wide = box[0] * rows, box[1] * columns, box[2] * rows, box[3] * columns
    out = torch.zeros(size, dtype=torch.float64)
    for i in range(size[0]):
        for j in range(size[1]):
            y0, y1 = top + tall * i / size[0], top + tall * (i + 1) / size[0]
            x0, x1 = left + wide * j / size[1], left + wide * (j + 1) / size[1]
            total = 0.0
            for r in range(rows):
                for c in range(columns):
                    down = max(0.0, min(y1, r + 1) - max(y0, r))
                    across = max(0.0, min(x1, c + 1) - max(x0, c))
                    total += float(values[r, c]) * down * across
            out[i, size[1] - 1 - j if mirrored else j] = total / ((y1 - y0) * (x1 - x0))
    return out


def encode_with_mask_tokens(
    pieces: ModuleType,
    image: Tensor,
    keep: Sequence[int],
    masked: Sequence[int],
    token: Tensor,
    state: State,
    *,
    patch: int,
    heads: int,
    blocks: int,
    prefix: Sequence[str],
) -> list[Tensor]:
    """Final tokens of the masked patches, in the order of `masked`; a patch that is in neither list is not there."""
    positions, kernel = state["pos_embed"][0], state["patch_embed.proj.weight"].flatten(1)
    vectors = pieces.patches_of(image, patch, "chw")
    rows = [vector for name in prefix for vector in state[name][0]]
    first = len(rows)
    rows = [row + positions[i] for i, row in enumerate(rows)]
    there = sorted([*keep, *masked])
    for i in there:
        seen = token if i in masked else kernel @ vectors[i] + state["patch_embed.proj.bias"]
        rows.append(seen + positions[first + i])
    x = torch.stack(rows)
    for index in range(blocks):
        x = pieces.block(x, state, f"blocks.{index}", heads)
    x = pieces.layer_norm(x, state, "norm")
    return [x[first + there.index(i)] for i in masked]


def absolute_loss(
    pieces: ModuleType,
    tokens: Sequence[Sequence[Tensor]],
    images: Tensor,
    masked: Sequence[Sequence[int]],
    head: State,
    patch: int,
) -> Tensor:
    """Absolute error of a linear layer's pixels, mean over all numbers of all masked patches."""
    errors = []
    for own, image, ids in zip(tokens, images, masked, strict=True):
        vectors = pieces.patches_of(image, patch, "hwc")
        for token, i in zip(own, ids, strict=True):
            errors.append((head["weight"] @ token + head["bias"] - vectors[i]).abs())
    return torch.cat(errors).sum() / sum(len(e) for e in errors)
