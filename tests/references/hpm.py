"""HPM once more: one image, one patch and one pair at a time, in float64, written from the specification.

Plain tensor arithmetic, so that autograd gives the gradients; nothing is shared with edgemim or timm. `pieces` is the
masked autoencoder's file, of which the blocks are. `keep` and `masked` are lists of patch ids of one image; a patch in
neither takes no part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

State = Mapping[str, Tensor]

EPS = 1e-6


def sequence(tokens: Tensor, keep: Sequence[int], masked: Sequence[int], state: State, table: Tensor) -> Tensor:
    """What both decoders read: prefix, visible patches, mask tokens; `table` [P + L, width] are the positions."""
    prefix = len(tokens) - len(keep)
    rows = []
    for place, token in enumerate(tokens):
        embedded = state["embed.weight"] @ token + state["embed.bias"]
        rows.append(embedded + table[place if place < prefix else prefix + keep[place - prefix]])
    for patch in masked:
        rows.append(state["mask_token"][0, 0] + table[prefix + patch])
    return torch.stack(rows)


def decode(pieces: ModuleType, x: Tensor, state: State, *, heads: int, blocks: int) -> Tensor:
    """Outputs of a decoder for every row of the sequence."""
    for index in range(blocks):
        x = pieces.block(x, state, f"blocks.{index}", heads)
    x = pieces.layer_norm(x, state, "norm")
    return x @ state["predict.weight"].T + state["predict.bias"]


def score(outputs: Tensor) -> Tensor:
    """One number, from the outputs for one patch."""
    return sum(outputs) / len(outputs)


def patch_errors(
    pieces: ModuleType, predicted: Sequence[Tensor], image: Tensor, masked: Sequence[int], patch: int, norm_pix: bool
) -> list[Tensor]:
    """Mean squared error of each masked patch."""
    vectors = pieces.patches_of(image, patch, "hwc")
    found = []
    for output, i in zip(predicted, masked, strict=True):
        target = pieces.pixel_target(vectors[i], norm_pix)
        found.append(((output - target) ** 2).sum() / len(target))
    return found


def order_loss(scores: Sequence[Sequence[Tensor]], errors: Sequence[Sequence[Tensor]]) -> Tensor:
    """Binary cross-entropy of every ordered pair of patches of an image whose errors differ, mean over the batch."""
    total, pairs = torch.zeros((), dtype=torch.float64), 0
    for own, others in zip(scores, errors, strict=True):
        for i in range(len(own)):
            for j in range(len(own)):
                if float(others[i].detach()) == float(others[j].detach()):
                    continue
                truth = 1.0 if float(others[i].detach()) > float(others[j].detach()) else 0.0
                won = 1 / (1 + torch.exp(own[j] - own[i]))
                total = total - truth * torch.log(won + EPS) - (1 - truth) * torch.log(1 - won + EPS)
                pairs += 1
    return total / pairs


def size_loss(scores: Sequence[Sequence[Tensor]], errors: Sequence[Sequence[Tensor]]) -> Tensor:
    """Squared distance from errors that have mean 0 and unbiased variance 1 in each image."""
    found = []
    for own, others in zip(scores, errors, strict=True):
        values = [float(e.detach()) for e in others]
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
        found += [(s - (v - mean) / math.sqrt(variance + EPS)) ** 2 for s, v in zip(own, values, strict=True)]
    return torch.stack(found).sum() / len(found)
