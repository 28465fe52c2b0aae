"""DropPos once more: one image, one patch and one place at a time, in float64, written from the specification.

Plain tensor arithmetic, so that autograd gives the gradients; nothing is shared with edgemim or timm. Blocks are
those of the masked autoencoder's file, which a caller hands over as `pieces`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def place(
    pieces: ModuleType,
    image: Tensor,
    visible: Sequence[int],
    lost: Collection[int],
    state: State,
    position_token: Tensor,
    decoder: State,
    *,
    patch: int,
    heads: tuple[int, int],
    blocks: tuple[int, int],
    prefix: Sequence[str],
) -> dict[int, Tensor]:
    """Scores [L] of all places for each patch in `lost`; `heads` and `blocks` are the encoder's and the decoder's."""
    positions = state["pos_embed"][0]
    rows = [token for name in prefix for token in state[name][0]]
    rows = [token + positions[i] for i, token in enumerate(rows)]
    first = len(rows)
    kernel = state["patch_embed.proj.weight"].flatten(1)
    patches = pieces.patches_of(image, patch, "chw")
    for i in visible:
        where = position_token if i in lost else positions[first + i]
        rows.append(kernel @ patches[i] + state["patch_embed.proj.bias"] + where)
    x = torch.stack(rows)
    for index in range(blocks[0]):
        x = pieces.block(x, state, f"blocks.{index}", heads[0])
    x = pieces.linear(pieces.layer_norm(x, state, "norm"), decoder, "embed")
    for index in range(blocks[1]):
        x = pieces.block(x, decoder, f"blocks.{index}", heads[1])
    x = pieces.linear(pieces.layer_norm(x, decoder, "norm"), decoder, "predict")
    return {i: x[first + n] for n, i in enumerate(visible) if i in lost}


def weights(tokens: Tensor, first: int, visible: Sequence[int], temperature: float) -> dict[int, float]:
    """How much each visible patch counts in an image, of which `tokens` [first + L, D] are what the encoder makes.

    Likeness is that to the class token, or to the mean patch where nothing stands in front. A softmax over all patches
    of the image, of which the visible ones are taken and made to add up to 1.
    """
    patches = tokens[first:]
    image = tokens[0] if first else patches.sum(dim=0) / len(patches)
    alike = [float((image * p).sum() / (image.norm() * p.norm())) for p in patches]
    shares = [math.exp(a / temperature) for a in alike]
    seen = sum(shares[i] for i in visible)
    return {i: shares[i] / seen for i in visible}


def target(own: int, grid: tuple[int, int], sigma: float) -> list[float]:
    """Share of each place, for a patch that comes from the place `own`."""
    if sigma == 0:
        return [float(i == own) for i in range(grid[0] * grid[1])]
    row, column = divmod(own, grid[1])
    heights = []
    for i in range(grid[0] * grid[1]):
        down, across = i // grid[1] - row, i % grid[1] - column
        heights.append(math.exp(-(down * down + across * across) / sigma**2))
    return [height / sum(heights) for height in heights]


def loss(
    scores: Sequence[Mapping[int, Tensor]],
    counts: Sequence[Mapping[int, float]],
    grid: tuple[int, int],
    sigma: float,
) -> Tensor:
    """Cross-entropy of the patches that have lost their places, weighted, over the sum of their weights."""
    total, weight = torch.zeros((), dtype=torch.float64), 0.0
    for of_image, counted in zip(scores, counts, strict=True):
        for own, row in of_image.items():
            logarithms = row - torch.log(torch.exp(row - row.max()).sum()) - row.max()
            for share, logarithm in zip(target(own, grid, sigma), logarithms, strict=True):
                total = total - counted[own] * share * logarithm
            weight += counted[own]
    return total / weight
