"""GMML once more: one image, one rectangle and one patch at a time, in float64, written from the specification.

Plain tensor arithmetic, so that autograd gives the gradients; nothing is shared with edgemim or timm. The encoder is
that of the masked autoencoder's file, which a caller hands over as `pieces` where its layers are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Rectangle = tuple[range, range]


def covered_until(rectangles: Sequence[Rectangle], target: float) -> set[tuple[int, int]]:
    """Pixels of rectangles (rows, columns) that are added until more than `target` are covered, or none is left."""
    covered: set[tuple[int, int]] = set()
    for rows, columns in rectangles:
        if len(covered) > target:
            break
        covered |= {(row, column) for row in rows for column in columns}
    return covered


def averaged(pieces: ModuleType, after: Sequence[Tensor], blocks: Sequence[int], backbone: State) -> Tensor:
    """Tokens [P + L, D]: the mean of those after some blocks, through the backbone's last norm where it has one."""
    mean = sum(after[block] for block in blocks) / len(blocks)
    return pieces.layer_norm(mean, backbone, "norm") if "norm.weight" in backbone else mean


def recover(pieces: ModuleType, tokens: Tensor, state: State, *, prefix: int, grid: tuple[int, int]) -> Tensor:
    """The image [3, H, W] that is read from tokens [P + L, D]; a norm first where the head has one."""
    tokens = tokens[prefix:]
    if "norm.weight" in state:
        tokens = pieces.layer_norm(tokens, state, "norm")
    for layer in ("mlp.0", "mlp.2", "mlp.4"):
        tokens = pieces.gelu(pieces.linear(tokens, state, layer))
    kernel, bias = state["to_pixels.weight"], state["to_pixels.bias"][:, None, None]
    bands = []
    for row in range(grid[0]):
        squares = []
        for column in range(grid[1]):
            token = tokens[row * grid[1] + column]
            squares.append(sum(token[d] * kernel[d] for d in range(len(token))) + bias)
        bands.append(torch.cat(squares, dim=2))
    return torch.cat(bands, dim=1)


def error(predictions: Sequence[Tensor], images: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
    """Absolute error, mean over the corrupted pixels of all images and their channels; masks are bool [H, W]."""
    errors = []
    for predicted, image, mask in zip(predictions, images, masks, strict=True):
        for channel in range(3):
            for row, column in mask.nonzero().tolist():
                errors.append((predicted[channel, row, column] - image[channel, row, column]).abs())
    return torch.stack(errors).sum() / len(errors)
