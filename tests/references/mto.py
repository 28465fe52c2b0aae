"""The reconstruction of MTO once more: one image, one pair of tokens and one channel at a time, in float64.

Written from the formulas that the method's module states, in plain tensor arithmetic, so that autograd gives the
gradients; nothing is shared with edgemim or timm. What all transformers share is that of the masked autoencoder's
file, which a caller hands over as `pieces`. Tokens of one image are [N, D]; `visible` and `masked` are numbers of rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def run(
    pieces: ModuleType,
    x: Tensor,
    state: State,
    *,
    heads: int,
    blocks: int,
    visible: Collection[int],
    masked: Collection[int],
    gates: Tensor,
) -> tuple[list[Tensor], Tensor]:
    """What enters each block, and what leaves the last."""
    entered = []
    for index in range(blocks):
        entered.append(x)
        name = f"blocks.{index}"
        factor = 2 / (1 + torch.exp(-gates[index]))
        y = pieces.layer_norm(x, state, f"{name}.norm1")
        x = x + attention(pieces, y, state, f"{name}.attn", heads, visible, masked, factor)
        hidden = pieces.gelu(pieces.linear(pieces.layer_norm(x, state, f"{name}.norm2"), state, f"{name}.mlp.fc1"))
        x = x + pieces.linear(hidden, state, f"{name}.mlp.fc2")
    return entered, x


def attention(
    pieces: ModuleType,
    x: Tensor,
    state: State,
    name: str,
    heads: int,
    visible: Collection[int],
    masked: Collection[int],
    factor: Tensor,
) -> Tensor:
    """Logits of visible queries to mask keys are multiplied by the factor, all others stay."""
    joint = pieces.linear(x, state, f"{name}.qkv")
    width = x.shape[1]
    size = width // heads
    found = []
    for head in range(heads):
        query, key, value = (joint[:, s * width + head * size : s * width + (head + 1) * size] for s in range(3))
        rows = []
        for i in range(len(x)):
            scores = []
            for j in range(len(x)):
                score = (query[i] * key[j]).sum() / math.sqrt(size)
                scores.append(score * factor if i in visible and j in masked else score)
            shares = torch.exp(torch.stack(scores) - max(float(s.detach()) for s in scores))
            rows.append(shares / shares.sum() @ value)
        found.append(torch.stack(rows))
    projected: Tensor = pieces.linear(torch.cat(found, dim=1), state, f"{name}.proj")
    return projected


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())


def spatial(images: Sequence[Tensor], visible: Sequence[Sequence[int]], masked: Sequence[Sequence[int]]) -> Tensor:
    """Positive part of the cosine, mean over the pairs of all images."""
    pairs = []
    for x, seen, hidden in zip(images, visible, masked, strict=True):
        pairs += [cosine(x[i], x[j]).clamp(min=0) for i in hidden for j in seen]
    return torch.stack(pairs).sum() / len(pairs)


def entropy(images: Sequence[Tensor], visible: Sequence[Sequence[int]], masked: Sequence[Sequence[int]]) -> Tensor:
    """Entropy of each mask token's affinities at the temperature 0.1, over its highest value, mean over all."""
    found = []
    for x, seen, hidden in zip(images, visible, masked, strict=True):
        everyone = [*hidden, *seen]
        for i in hidden:
            heights = [torch.exp(cosine(x[i], x[j]) / 0.1) for j in everyone]
            shares = [height / sum(heights) for height in heights]
            found.append(-sum(share * torch.log(share) for share in shares) / math.log(len(everyone)))
    return torch.stack(found).sum() / len(found)


def heterogeneity(
    images: Sequence[Tensor], visible: Sequence[Sequence[int]], masked: Sequence[Sequence[int]]
) -> Tensor:
    """KL of the mean distribution of visible tokens from that of masked ones, mean over the images."""
    found = []
    for x, seen, hidden in zip(images, visible, masked, strict=True):
        own, other = (mean_distribution(x, rows) for rows in (hidden, seen))
        found.append(sum(p * torch.log(p / q) for p, q in zip(own, other, strict=True)))
    return torch.stack(found).sum() / len(found)


def mean_distribution(x: Tensor, rows: Sequence[int]) -> Tensor:
    total = torch.zeros(x.shape[1], dtype=x.dtype)
    for i in rows:
        heights = torch.exp(x[i] - x[i].max())
        total = total + heights / heights.sum()
    return total / len(rows)


def rise(levels: Sequence[Tensor]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for before, after in itertools.pairwise(levels):
        total = total + (after - before).clamp(min=0)
    return total
