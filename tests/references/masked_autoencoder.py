"""MAE and DMAE once more: one image, one patch and one head at a time, in float64, written from the specification.

Plain tensor arithmetic, so that autograd gives the gradients; nothing is shared with edgemim or timm. Weights
come as a dict by timm's names. `keep` is the list of visible patch ids of one image, ascending.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = Mapping[str, Tensor]

EPS = 1e-6


def linear(x: Tensor, state: State, name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def layer_norm(x: Tensor, state: State, name: str) -> Tensor:
    centred = x - x.sum(-1, keepdim=True) / x.shape[-1]
    variance = (centred * centred).sum(-1, keepdim=True) / x.shape[-1]
    return centred / (variance + EPS).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def attention(x: Tensor, state: State, name: str, heads: int) -> Tensor:
    """Tokens [N, D]; the rows of the joint projection are the queries', then the keys', then the values'."""
    width = x.shape[1]
    size = width // heads
    joint = linear(x, state, f"{name}.qkv")
    found = []
    for head in range(heads):
        query, key, value = (joint[:, s * width + head * size : s * width + (head + 1) * size] for s in range(3))
        scores = query @ key.T / math.sqrt(size)
        weights = torch.exp(scores - scores.max(dim=1, keepdim=True).values)
        found.append(weights / weights.sum(dim=1, keepdim=True) @ value)
    return linear(torch.cat(found, dim=1), state, f"{name}.proj")


def block(x: Tensor, state: State, name: str, heads: int) -> Tensor:
    x = x + attention(layer_norm(x, state, f"{name}.norm1"), state, f"{name}.attn", heads)
    hidden = gelu(linear(layer_norm(x, state, f"{name}.norm2"), state, f"{name}.mlp.fc1"))
    return x + linear(hidden, state, f"{name}.mlp.fc2")


def patches_of(image: Tensor, patch: int, order: str) -> list[Tensor]:
    """Patches of [3, H, W] in row-major order as vectors, `order` being `chw` or `hwc`."""
    found = []
    for top in range(0, image.shape[1], patch):
        for left in range(0, image.shape[2], patch):
            square = image[:, top : top + patch, left : left + patch]
            found.append((square if order == "chw" else square.permute(1, 2, 0)).reshape(-1))
    return found


def encode(
    image: Tensor, keep: Sequence[int], state: State, *, patch: int, heads: int, blocks: int, prefix: Sequence[str]
) -> list[Tensor]:
    """Tokens after each block, prefix first, and at last those after the final norm if the state has one."""
    positions = state["pos_embed"][0]
    kernel = state["patch_embed.proj.weight"].flatten(1)
    tokens = torch.cat([state[name][0] for name in prefix]) if prefix else positions[:0]
    rows = [tokens[i] + positions[i] for i in range(len(tokens))]
    patches = patches_of(image, patch, "chw")
    for i in keep:
        rows.append(kernel @ patches[i] + state["patch_embed.proj.bias"] + positions[len(tokens) + i])
    x = torch.stack(rows)
    after = []
    for index in range(blocks):
        x = block(x, state, f"blocks.{index}", heads)
        after.append(x)
    return [*after, layer_norm(x, state, "norm")] if "norm.weight" in state else after


def decode(tokens: Tensor, keep: Sequence[int], state: State, table: Tensor, *, heads: int, blocks: int) -> Tensor:
    """Predictions for all patches; `table` [P + L, width] are the positions, zero for the P prefix tokens."""
    embedded = linear(tokens, state, "embed")
    prefix = len(tokens) - len(keep)
    rows = [embedded[i] + table[i] for i in range(prefix)]
    for patch in range(len(table) - prefix):
        seen = patch in keep
        token = embedded[prefix + list(keep).index(patch)] if seen else state["mask_token"][0, 0]
        rows.append(token + table[prefix + patch])
    x = torch.stack(rows)
    for index in range(blocks):
        x = block(x, state, f"blocks.{index}", heads)
    return linear(layer_norm(x[prefix:], state, "norm"), state, "predict")


def pixel_target(vector: Tensor, norm_pix: bool) -> Tensor:
    """A patch, shifted and scaled by its own mean and unbiased variance if asked for."""
    if not norm_pix:
        return vector
    mean = vector.sum() / len(vector)
    variance = ((vector - mean) ** 2).sum() / (len(vector) - 1)
    return (vector - mean) / (variance + EPS).sqrt()


def pixel_loss(
    predictions: Sequence[Tensor], images: Tensor, keeps: Sequence[Sequence[int]], patch: int, norm_pix: bool
) -> Tensor:
    """Squared error, mean over a patch's numbers, then over all masked patches of the batch."""
    errors = []
    for predicted, image, keep in zip(predictions, images, keeps, strict=True):
        for i, vector in enumerate(patches_of(image, patch, "hwc")):
            if i not in keep:
                errors.append(((predicted[i] - pixel_target(vector, norm_pix)) ** 2).sum() / len(vector))
    return torch.stack(errors).sum() / len(errors)


def project(x: Tensor, state: State, kind: str) -> Tensor:
    """`none`, `linear`, `mlp` (two layers with a GELU between), `mlp2` (two such in a row)."""
    if kind == "none":
        return x
    if kind == "linear":
        return x @ state["weight"].T + state["bias"]
    layers = ("0", "2") if kind == "mlp" else ("0", "2", "3", "5")
    for first, second in zip(layers[::2], layers[1::2], strict=True):
        x = linear(gelu(linear(x, state, first)), state, second)
    return x


def alignment_loss(
    students: Sequence[Tensor], teachers: Sequence[Tensor], *, unit: bool, distance: str, sum_channels: bool
) -> Tensor:
    """Distance of tokens [N, C] of each image, mean over images, tokens and channels (or summed over these)."""
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for student, teacher in zip(students, teachers, strict=True):
        for a, b in zip(student, teacher, strict=True):
            if unit:
                a, b = a / (a * a).sum().sqrt(), b / (b * b).sum().sqrt()
            errors = (a - b).abs() if distance == "l1" else (a - b) ** 2
            total = total + (errors.sum() if sum_channels else errors.sum() / len(errors))
            tokens += 1
    return total / tokens
