"""Selfie once more: one image, one candidate and one place at a time, in float64.

Written from the method's description in plain arithmetic, so that autograd gives the gradients; nothing is shared
with edgemim or timm. Blocks, norms and the encoder are those of the masked autoencoder's file, handed over as `pieces`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def alone(
    pieces: ModuleType, square: Tensor, state: State, *, heads: int, blocks: int, prefix: Sequence[str]
) -> Tensor:
    """A patch [3 * h * w] as the encoder sees it with nothing around it, and without a position: [D]."""
    rows = [vector for name in prefix for vector in state[name][0]]
    rows = [row + position for row, position in zip(rows, state["pos_embed"][0], strict=False)]
    rows.append(state["patch_embed.proj.weight"].flatten(1) @ square + state["patch_embed.proj.bias"])
    x = torch.stack(rows)
    for index in range(blocks):
        x = pieces.block(x, state, f"blocks.{index}", heads)
    return (pieces.layer_norm(x, state, "norm") if "norm.weight" in state else x)[-1]


def summarise(pieces: ModuleType, seen: Tensor, state: State, *, heads: int, blocks: int) -> Tensor:
    """[D], of all visible tokens [N, D]."""
    x = torch.cat([state["query"][0], seen])
    for index in range(blocks):
        x = pieces.block(x, state, f"pooling.{index}", heads)
    return pieces.layer_norm(x, state, "norm")[0]


def scores(
    pieces: ModuleType,
    summary: Tensor,
    hidden: Sequence[int],
    candidates: Sequence[Tensor],
    table: Tensor,
    state: State,
) -> list[list[Tensor]]:
    """For each hidden place, the score of each candidate."""
    found = []
    for place in hidden:
        wanted = summary + table[place]
        wanted = pieces.linear(pieces.gelu(pieces.linear(wanted, state, "head.0")), state, "head.2")
        found.append([(wanted * candidate).sum() / math.sqrt(len(wanted)) for candidate in candidates])
    return found


def matching_loss(images: Sequence[list[list[Tensor]]]) -> Tensor:
    """Minus the log probability that each place gives the candidate that was cut out there; mean over all places."""
    found = []
    for rows in images:
        for i, row in enumerate(rows):
            exponents = torch.stack([torch.exp(score) for score in row])
            found.append(-torch.log(exponents[i] / exponents.sum()))
    return torch.stack(found).sum() / len(found)
