"""MixedAE once more: one collage, one head, one query and one pair of tokens at a time, in float64.

Written from the specification in plain arithmetic, so that autograd gives the gradients; nothing is shared with edgemim
or timm. Layers, patches and the decoder are those of the masked autoencoder's file, handed over as `pieces`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def attention(pieces: ModuleType, x: Tensor, state: State, name: str, heads: int, seen: int) -> Tensor:
    """Tokens [N, D]; each query sees the `seen` keys with the highest scores, and no other."""
    width = x.shape[1]
    size = width // heads
    joint = pieces.linear(x, state, f"{name}.qkv")
    found = []
    for head in range(heads):
        query, key, value = (joint[:, s * width + head * size : s * width + (head + 1) * size] for s in range(3))
        rows = []
        for i in range(len(x)):
            scores = [(query[i] * key[j]).sum() / math.sqrt(size) for j in range(len(x))]
            best = sorted(range(len(x)), key=lambda j: float(scores[j].detach()), reverse=True)[:seen]
            weights = {j: torch.exp(scores[j] - scores[best[0]].detach()) for j in best}
            rows.append(sum(weights[j] * value[j] for j in best) / sum(weights.values()))
        found.append(torch.stack(rows))
    return pieces.linear(torch.cat(found, dim=1), state, f"{name}.proj")


def encode(
    pieces: ModuleType,
    images: Sequence[Tensor],
    keeps: Sequence[Sequence[int]],
    segments: Tensor,
    state: State,
    *,
    patch: int,
    heads: int,
    blocks: int,
    first_restricted: int,
    prefix: Sequence[str],
) -> tuple[Tensor, list[Tensor]]:
    """Of the collage of a group: the final prefix tokens [P, D], and the final tokens of each image, [K, D]."""
    positions = state["pos_embed"][0]
    kernel = state["patch_embed.proj.weight"].flatten(1)
    tokens = torch.cat([state[name][0] for name in prefix]) if prefix else positions[:0]
    rows = [tokens[i] + positions[i] for i in range(len(tokens))]
    for slot, (image, keep) in enumerate(zip(images, keeps, strict=True)):
        patches = pieces.patches_of(image, patch, "chw")
        for place in keep:
            content = kernel @ patches[place] + state["patch_embed.proj.bias"]
            rows.append(content + positions[len(tokens) + place] + segments[slot])
    x = torch.stack(rows)
    for index in range(blocks):
        name = f"blocks.{index}"
        seen = len(tokens) + len(keeps[0]) if index >= first_restricted else len(x)
        normed = pieces.layer_norm(x, state, f"{name}.norm1")
        x = x + attention(pieces, normed, state, f"{name}.attn", heads, seen)
        hidden = pieces.gelu(pieces.linear(pieces.layer_norm(x, state, f"{name}.norm2"), state, f"{name}.mlp.fc1"))
        x = x + pieces.linear(hidden, state, f"{name}.mlp.fc2")
    x = pieces.layer_norm(x, state, "norm")
    own, start = [], len(tokens)
    for keep in keeps:
        own.append(x[start : start + len(keep)])
        start += len(keep)
    return x[: len(tokens)], own


def recognition(pieces: ModuleType, images: Sequence[Tensor], state: State, temperature: float) -> Tensor:
    """Of one collage: whether the tokens [K, D] of each image are nearer to one another than to those of the others."""
    tokens = [(slot, token) for slot, own in enumerate(images) for token in own]
    compared = []
    for _, token in tokens:
        y = pieces.linear(pieces.gelu(pieces.linear(token[None], state, "0")), state, "2")[0]
        compared.append(y / (y * y).sum().sqrt())
    losses = []
    for i, (slot, _) in enumerate(tokens):
        weights = {j: torch.exp((compared[i] * compared[j]).sum() / temperature) for j in range(len(tokens)) if j != i}
        same = [j for j in weights if tokens[j][0] == slot]
        losses.append(sum(-torch.log(weights[j] / sum(weights.values())) for j in same) / len(same))
    return torch.stack(losses).sum() / len(losses)
