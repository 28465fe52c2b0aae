"""CAE, CAE v2 and their tokenizer once more: one image, one query, one token at a time, in float64.

Written from the specification in plain arithmetic, so that autograd gives the gradients; nothing is shared with
edgemim or timm. Encoders, norms and self-attention are those of the masked autoencoder's file, which a caller hands
over as `pieces`. Tokens of one image are [N, C]; `table` [L, C] are the positions of its patches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def attend(pieces: ModuleType, queries: Tensor, keys: Tensor, values: Tensor, state: State, heads: int) -> Tensor:
    """Each query looks at all keys, one head after the other; the keys have no bias."""
    queries, values = pieces.linear(queries, state, "queries"), pieces.linear(values, state, "values")
    keys = keys @ state["keys.weight"].T
    size = queries.shape[1] // heads
    rows = []
    for query in queries:
        found = []
        for start in range(0, heads * size, size):
            channels = slice(start, start + size)
            scores = torch.stack([(query[channels] * key[channels]).sum() / math.sqrt(size) for key in keys])
            weights = torch.exp(scores - scores.max())
            parts = [weight * value[channels] for weight, value in zip(weights, values, strict=True)]
            found.append(torch.stack(parts).sum(dim=0) / weights.sum())
        rows.append(torch.cat(found))
    return pieces.linear(torch.stack(rows), state, "proj")


def part(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def regress(
    pieces: ModuleType,
    seen: Tensor,
    keep: Sequence[int],
    hidden: Sequence[int],
    table: Tensor,
    state: State,
    *,
    heads: int,
    blocks: int,
) -> Tensor:
    """Latents guessed for the `hidden` patches from those `seen` of the kept ones."""
    x = torch.stack([state["mask_token"][0, 0] for _ in hidden])
    at = torch.stack([table[i] for i in hidden])
    places = torch.stack([table[i] for i in [*keep, *hidden]])
    for index in range(blocks):
        own = part(state, f"blocks.{index}.")
        around = torch.cat([seen, x])
        found = attend(
            pieces,
            pieces.layer_norm(x + at, own, "norm_queries"),
            pieces.layer_norm(around + places, own, "norm_keys"),
            pieces.layer_norm(around, own, "norm_values"),
            part(own, "attn."),
            heads,
        )
        x = pieces.layer_norm(x + found * own.get("ls1.gamma", 1), own, "norm")
        hidden_layer = pieces.gelu(pieces.linear(x, own, "mlp.fc1"))
        x = x + pieces.linear(hidden_layer, own, "mlp.fc2") * own.get("ls2.gamma", 1)
    return pieces.layer_norm(x, state, "norm")


def decode(
    pieces: ModuleType, latents: Tensor, hidden: Sequence[int], table: Tensor, state: State, *, heads: int, blocks: int
) -> Tensor:
    """What is predicted for the `hidden` patches, from their latents alone."""
    x = torch.stack([latent + table[i] for latent, i in zip(latents, hidden, strict=True)]) if blocks else latents
    for index in range(blocks):
        own = part(state, f"blocks.{index}.")
        found = pieces.attention(pieces.layer_norm(x, own, "norm1"), own, "attn", heads)
        x = x + found * own.get("ls1.gamma", 1)
        hidden_layer = pieces.gelu(pieces.linear(pieces.layer_norm(x, own, "norm2"), own, "mlp.fc1"))
        x = x + pieces.linear(hidden_layer, own, "mlp.fc2") * own.get("ls2.gamma", 1)
    return read(pieces, x, state)


def read(pieces: ModuleType, tokens: Tensor, state: State) -> Tensor:
    return pieces.linear(pieces.layer_norm(tokens, state, "norm"), state, "predict")


def squared(guessed: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Mean squared error over all numbers of all images; nothing is learnt from the targets."""
    errors = [(a - b.detach()) ** 2 for a, b in zip(guessed, targets, strict=True)]
    return torch.stack([error.sum() for error in errors]).sum() / sum(error.numel() for error in errors)


def apart(students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
    """One minus the cosine of two tokens, mean over all tokens of all images."""
    found = []
    for student, teacher in zip(students, teachers, strict=True):
        for a, b in zip(student, teacher.detach(), strict=True):
            found.append(1 - (a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt())
    return torch.stack(found).sum() / len(found)


def surprise(decoded: Sequence[Tensor], codes: Sequence[Sequence[int]]) -> Tensor:
    """Cross-entropy of the codes, mean over the patches of all images; `decoded` are logits [M, codes]."""
    found = []
    for logits, wanted in zip(decoded, codes, strict=True):
        for row, code in zip(logits, wanted, strict=True):
            found.append(torch.log(torch.exp(row - row.max()).sum()) + row.max() - row[code])
    return torch.stack(found).sum() / len(found)


def tokenize(colours: Tensor, state: State) -> list[int]:
    """Codes of an image [3, H, W] in [0, 1], by the names of the public module."""
    x = convolve(0.1 + 0.8 * colours, state, "blocks.input")
    for group in range(1, 5):
        for number in (1, 2):
            name = f"blocks.group_{group}.block_{number}"
            change = x
            for layer in range(1, 5):
                change = convolve(change * (change > 0), state, f"{name}.res_path.conv_{layer}")
            straight = convolve(x, state, f"{name}.id_path") if f"{name}.id_path.w" in state else x
            x = straight + change / 64
        if group < 4:
            channels, height, width = x.shape
            x = x.reshape(channels, height // 2, 2, width // 2, 2).amax(dim=(2, 4))
    logits = convolve(x * (x > 0), state, "blocks.output.conv")
    return [int(column.argmax()) for column in logits.flatten(1).T]


def convolve(x: Tensor, state: State, name: str) -> Tensor:
    """Of [C, H, W], with zeros around it, so that the size stays."""
    weight, bias = state[f"{name}.w"], state[f"{name}.b"]
    side = weight.shape[-1]
    edge = side // 2
    height, width = x.shape[1:]
    wide = x.new_zeros(len(x), height + 2 * edge, width + 2 * edge)
    wide[:, edge : edge + height, edge : edge + width] = x
    total = bias[:, None, None].expand(-1, height, width)
    for row in range(side):
        for column in range(side):
            shifted = wide[:, row : row + height, column : column + width]
            total = total + torch.einsum("oc,chw->ohw", weight[:, :, row, column], shifted)
    return total
