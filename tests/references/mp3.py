"""MP3 once more: one image, one query and one place at a time, in float64, written from the specification.

Plain tensor arithmetic, so that autograd gives the gradients; nothing is shared with edgemim or timm. What all
transformers share is that of the masked autoencoder's file, which a caller hands over as `pieces`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def attention(pieces: ModuleType, x: Tensor, keys: Sequence[int], state: State, name: str, heads: int) -> Tensor:
    """Tokens [N, D]: every one asks, those with the numbers `keys` alone answer."""
    joint = pieces.linear(x, state, f"{name}.qkv")
    width = x.shape[1]
    size = width // heads
    found = []
    for head in range(heads):
        query, key, value = (joint[:, s * width + head * size : s * width + (head + 1) * size] for s in range(3))
        rows = []
        for i in range(len(x)):
            scores = torch.stack([(query[i] * key[j]).sum() / math.sqrt(size) for j in keys])
            shares = torch.exp(scores - scores.max())
            shares = shares / shares.sum()
            rows.append(torch.stack([share * value[j] for share, j in zip(shares, keys, strict=True)]).sum(dim=0))
        found.append(torch.stack(rows))
    projected: Tensor = pieces.linear(torch.cat(found, dim=1), state, f"{name}.proj")
    return projected


def place(
    pieces: ModuleType,
    image: Tensor,
    context: Collection[int],
    asked: Sequence[int],
    state: State,
    head: State,
    *,
    patch: int,
    heads: int,
    blocks: int,
    prefix: Sequence[str],
) -> Tensor:
    """Scores [len(asked), L] of all places for the patches `asked`, of which those in `context` can be seen."""
    rows = [token for name in prefix for token in state[name][0]]
    rows = [token + state["pos_embed"][0][i] for i, token in enumerate(rows)]
    first = len(rows)
    kernel = state["patch_embed.proj.weight"].flatten(1)
    patches = pieces.patches_of(image, patch, "chw")
    rows += [kernel @ patches[i] + state["patch_embed.proj.bias"] for i in asked]
    keys = [*range(first), *(first + n for n, i in enumerate(asked) if i in context)]
    x = torch.stack(rows)
    for index in range(blocks):
        name = f"blocks.{index}"
        x = x + attention(pieces, pieces.layer_norm(x, state, f"{name}.norm1"), keys, state, f"{name}.attn", heads)
        hidden = pieces.gelu(pieces.linear(pieces.layer_norm(x, state, f"{name}.norm2"), state, f"{name}.mlp.fc1"))
        x = x + pieces.linear(hidden, state, f"{name}.mlp.fc2")
    x = pieces.layer_norm(x, state, "norm")[first:]
    return torch.stack([head["weight"] @ token + head["bias"] for token in x])


def loss(scores: Sequence[Tensor], asked: Sequence[Sequence[int]], smoothing: float) -> Tensor:
    """Cross-entropy, mean over all patches of all images; `smoothing` of each target goes to all places alike."""
    wrong = []
    for rows, ids in zip(scores, asked, strict=True):
        for row, own in zip(rows, ids, strict=True):
            logarithms = row - torch.log(torch.exp(row - row.max()).sum()) - row.max()
            wanted = [smoothing / len(row) + (1 - smoothing) * (i == own) for i in range(len(row))]
            wrong.append(-sum(w * logarithm for w, logarithm in zip(wanted, logarithms, strict=True)))
    return torch.stack(wrong).sum() / len(wrong)
