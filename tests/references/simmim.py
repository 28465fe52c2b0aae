"""SimMIM once more: one image, one window and one head at a time, in float64, written from the specification.

Three encoders (a ViT with positions, BEiT with a relative position bias, Swin), the head and the loss, in plain
tensor arithmetic, so that autograd gives the gradients; nothing is shared with edgemim or timm. Weights come as a
dict by timm's names. `hidden` are the ids of one image's patches that a mask token stands for.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Place = tuple[int, int]

VIT_EPS, SWIN_EPS = 1e-6, 1e-5


def linear(x: Tensor, state: State, name: str) -> Tensor:
    product = x @ state[f"{name}.weight"].T
    return product + state[f"{name}.bias"] if f"{name}.bias" in state else product


def layer_norm(x: Tensor, state: State, name: str, eps: float) -> Tensor:
    centred = x - x.sum(-1, keepdim=True) / x.shape[-1]
    variance = (centred * centred).sum(-1, keepdim=True) / x.shape[-1]
    return centred / (variance + eps).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def mlp(x: Tensor, state: State, name: str) -> Tensor:
    inner = linear(x, state, f"{name}.fc1")
    return linear(inner * (1 + torch.erf(inner / math.sqrt(2))) / 2, state, f"{name}.fc2")


def attend(x: Tensor, state: State, name: str, heads: int, bias: Sequence[Tensor]) -> Tensor:
    """Tokens [N, D]; `bias[head]` [N, N] is added to the scores, minus infinity where a token must not look."""
    joint = x @ state[f"{name}.qkv.weight"].T
    width = joint.shape[1] // 3
    if f"{name}.q_bias" in state:  # BEiT: keys have none
        zero = torch.zeros_like(state[f"{name}.q_bias"])
        joint = joint + torch.cat([state[f"{name}.q_bias"], zero, state[f"{name}.v_bias"]])
    else:
        joint = joint + state[f"{name}.qkv.bias"]
    size = width // heads
    found = []
    for head in range(heads):
        query, key, value = (joint[:, s * width + head * size : s * width + (head + 1) * size] for s in range(3))
        scores = query @ key.T / math.sqrt(size) + bias[head]
        weights = torch.exp(scores - scores.max(dim=1, keepdim=True).values)
        found.append(weights / weights.sum(dim=1, keepdim=True) @ value)
    return linear(torch.cat(found, dim=1), state, f"{name}.proj")


def embed(image: Tensor, hidden: Collection[int], state: State, token: Tensor, patch: int) -> list[Tensor]:
    """One vector per patch, row by row: its projection, or the mask token."""
    kernel, bias = state["patch_embed.proj.weight"].flatten(1), state["patch_embed.proj.bias"]
    found = []
    for top in range(0, image.shape[1], patch):
        for left in range(0, image.shape[2], patch):
            vector = kernel @ image[:, top : top + patch, left : left + patch].reshape(-1) + bias
            if "patch_embed.norm.weight" in state:
                vector = layer_norm(vector, state, "patch_embed.norm", SWIN_EPS)
            found.append(token if len(found) in hidden else vector)
    return found


def vit(
    image: Tensor, hidden: Collection[int], state: State, token: Tensor, *, patch: int, heads: int, blocks: int
) -> Tensor:
    """Patch tokens [L, D] after the final norm of a ViT; class and register tokens as far as it has them."""
    prefix = [row for name in ("cls_token", "reg_token") if name in state for row in state[name][0]]
    x = torch.stack([*prefix, *embed(image, hidden, state, token, patch)]) + state["pos_embed"][0]
    for index in range(blocks):
        name = f"blocks.{index}"
        none = [torch.zeros(len(x), len(x), dtype=x.dtype)] * heads
        x = x + attend(layer_norm(x, state, f"{name}.norm1", VIT_EPS), state, f"{name}.attn", heads, none)
        x = x + mlp(layer_norm(x, state, f"{name}.norm2", VIT_EPS), state, f"{name}.mlp")
    return layer_norm(x, state, "norm", VIT_EPS)[len(prefix) :]


def beit(
    image: Tensor, hidden: Collection[int], state: State, token: Tensor, *, patch: int, heads: int, blocks: int
) -> Tensor:
    """Patch tokens [L, D] after the final norm of BEiT: bias of the blocks' own, of all together, or both."""
    x = torch.stack([state["cls_token"][0, 0], *embed(image, hidden, state, token, patch)])
    if "pos_embed" in state:
        x = x + state["pos_embed"][0]
    grid = (image.shape[1] // patch, image.shape[2] // patch)
    for index in range(blocks):
        name = f"blocks.{index}"
        bias = [torch.zeros(len(x), len(x), dtype=x.dtype)] * heads
        for owner in ("rel_pos_bias", f"{name}.attn"):
            if f"{owner}.relative_position_bias_table" in state:
                added = beit_bias(state[f"{owner}.relative_position_bias_table"], grid)
                bias = [bias[head] + added[head] for head in range(heads)]
        first = state.get(f"{name}.gamma_1", 1.0)
        second = state.get(f"{name}.gamma_2", 1.0)
        x = x + first * attend(layer_norm(x, state, f"{name}.norm1", VIT_EPS), state, f"{name}.attn", heads, bias)
        x = x + second * mlp(layer_norm(x, state, f"{name}.norm2", VIT_EPS), state, f"{name}.mlp")
    return layer_norm(x, state, "norm", VIT_EPS)[1:]


def beit_bias(table: Tensor, grid: Place) -> list[Tensor]:
    """[1 + L, 1 + L] per head: what a query (row) adds to its score of a key (column).

    The table has a row for each difference of two places, and three more: class token to patch, patch to class
    token, class token to itself.
    """
    places: list[Place | None] = [None, *((r, c) for r in range(grid[0]) for c in range(grid[1]))]
    last = len(table)

    def row(query: Place | None, key: Place | None) -> int:
        if query is None:
            return last - 1 if key is None else last - 3
        return last - 2 if key is None else difference(query, key, grid)

    chosen = table[torch.tensor([[row(query, key) for key in places] for query in places])]
    return [chosen[:, :, head] for head in range(table.shape[1])]


def difference(query: Place, key: Place, window: Place) -> int:
    """Row of a bias table for two places in a window, differences counted from the most negative one."""
    down, across = query[0] - key[0] + window[0] - 1, query[1] - key[1] + window[1] - 1
    return down * (2 * window[1] - 1) + across


def swin(
    image: Tensor,
    hidden: Collection[int],
    state: State,
    token: Tensor,
    *,
    patch: int,
    window: Place,
    heads: Sequence[int],
    blocks: Sequence[int],
) -> Tensor:
    """Tokens [L, D] after the final norm of a Swin whose grids are whole numbers of windows."""
    rows, columns = image.shape[1] // patch, image.shape[2] // patch
    x = torch.stack(embed(image, hidden, state, token, patch))
    for stage, (number, count) in enumerate(zip(heads, blocks, strict=True)):
        if stage:
            x = merge(x, rows, columns, state, f"layers.{stage}.downsample")
            rows, columns = rows // 2, columns // 2
        for index in range(count):
            name = f"layers.{stage}.blocks.{index}"
            y = layer_norm(x, state, f"{name}.norm1", SWIN_EPS)
            x = x + windows(y, (rows, columns), window, state, f"{name}.attn", number, shifted=index % 2 == 1)
            x = x + mlp(layer_norm(x, state, f"{name}.norm2", SWIN_EPS), state, f"{name}.mlp")
    return layer_norm(x, state, "norm", SWIN_EPS)


def windows(x: Tensor, grid: Place, window: Place, state: State, name: str, heads: int, *, shifted: bool) -> Tensor:
    """Attention within windows; every second block moves them by half of one, around the edge of the image.

    A side on which one window holds the whole grid is not moved. In a window that goes around an edge, tokens of
    the two sides do not see each other.
    """
    tall, wide = min(window[0], grid[0]), min(window[1], grid[1])
    down = tall // 2 if shifted and grid[0] > tall else 0
    across = wide // 2 if shifted and grid[1] > wide else 0
    inside = [(r, c) for r in range(tall) for c in range(wide)]
    chosen = state[f"{name}.relative_position_bias_table"][
        torch.tensor([[difference(query, key, (tall, wide)) for key in inside] for query in inside])
    ]
    out: dict[int, Tensor] = {}
    for top in range(0, grid[0], tall):
        for left in range(0, grid[1], wide):
            places = [(top + r + down, left + c + across) for r, c in inside]
            ids = [(r % grid[0]) * grid[1] + c % grid[1] for r, c in places]
            side = [(r >= grid[0], c >= grid[1]) for r, c in places]
            apart = torch.tensor([[query != key for key in side] for query in side])
            bias = [chosen[:, :, head].masked_fill(apart, -math.inf) for head in range(heads)]
            seen = attend(x[ids], state, name, heads, bias)
            out |= dict(zip(ids, seen, strict=True))
    return torch.stack([out[i] for i in range(len(x))])


def merge(x: Tensor, rows: int, columns: int, state: State, name: str) -> Tensor:
    """Two by two tokens become one: upper left, lower left, upper right, lower right, normed and projected."""
    found = []
    for r in range(0, rows, 2):
        for c in range(0, columns, 2):
            four = [x[(r + dr) * columns + c + dc] for dc in (0, 1) for dr in (0, 1)]
            found.append(torch.cat(four))
    return linear(layer_norm(torch.stack(found), state, f"{name}.norm", SWIN_EPS), state, f"{name}.reduction")


def predict(tokens: Tensor, state: State, stride: int, columns: int) -> Tensor:
    """The image [3, H, W]: each token gives a square of `stride` pixels, as channel, row and column in that order."""
    weight, bias = state["head.weight"][:, :, 0, 0], state["head.bias"]
    squares = [(weight @ token + bias).reshape(3, stride, stride) for token in tokens]
    bands = [torch.cat(squares[i : i + columns], dim=2) for i in range(0, len(squares), columns)]
    return torch.cat(bands, dim=1)


def loss(predictions: Sequence[Tensor], images: Tensor, masked: Sequence[Collection[int]], patch: int) -> Tensor:
    """Absolute error of the masked patches' pixels, over their number (+ 1e-5) and the 3 channels."""
    total, pixels = torch.zeros((), dtype=torch.float64), 0
    for predicted, image, ids in zip(predictions, images, masked, strict=True):
        for i in ids:
            row, column = divmod(i, image.shape[2] // patch)
            square = (slice(None), slice(row * patch, (row + 1) * patch), slice(column * patch, (column + 1) * patch))
            total = total + (predicted[square] - image[square]).abs().sum()
            pixels += patch * patch
    return total / (pixels + 1e-5) / 3
