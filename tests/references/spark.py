"""SparK once more, in float64, written from the specification: a map is a dict of its visible places and nothing else.

The encoder is a ConvNeXt (V1 or V2), one image and one place at a time. The decoder is dense: shifted maps, summed.
Plain tensor arithmetic, so that autograd gives the gradients; nothing is shared with edgemim or timm. Weights come as
a dict by their names. `keep` is the list of visible cells of one image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Place = tuple[int, int]
Places = dict[Place, Tensor]

NORM_EPS, BATCH_EPS, PIXEL_EPS = 1e-6, 1e-5, 1e-6


def visible_places(keep: Sequence[int], grid: Place, height: int, width: int) -> list[Place]:
    """Places (row, column) of a map of height x width that lie in visible cells."""
    down, across = height // grid[0], width // grid[1]
    return [(r, c) for r in range(height) for c in range(width) if (r // down) * grid[1] + c // across in keep]


def convolve(
    places: Places, weight: Tensor, bias: Tensor | None, visible: Sequence[Place], *, stride: int = 1, padding: int = 0
) -> Places:
    """A convolution that computes the visible places of its output from those places of its input that there are."""
    made = {}
    for row, column in visible:
        total = torch.zeros(weight.shape[0], dtype=weight.dtype) if bias is None else bias
        for down in range(weight.shape[2]):
            for across in range(weight.shape[3]):
                place = (row * stride - padding + down, column * stride - padding + across)
                if place in places:
                    kernel = weight[:, :, down, across]
                    depthwise = kernel.shape[1] == 1 and len(places[place]) > 1
                    total = total + (kernel[:, 0] * places[place] if depthwise else kernel @ places[place])
        made[row, column] = total
    return made


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.sum() / len(x)
    return centred / ((centred * centred).sum() / len(x) + NORM_EPS).sqrt() * weight + bias


def batch_norm(images: Sequence[Places], weight: Tensor, bias: Tensor) -> tuple[list[Places], Tensor, Tensor]:
    """Places of all images, normed by the statistics of all of them; these, the variance unbiased, come along."""
    every = torch.stack([x for places in images for x in places.values()])
    mean = every.sum(dim=0) / len(every)
    squares = ((every - mean) ** 2).sum(dim=0)
    scale = weight / (squares / len(every) + BATCH_EPS).sqrt()
    normed = [{p: (x - mean) * scale + bias for p, x in places.items()} for places in images]
    return normed, mean, squares / (len(every) - 1)


def response_norm(places: Places, weight: Tensor, bias: Tensor) -> Places:
    """GRN: how strong a channel is in the image, beside the mean of all channels."""
    strength = torch.stack(list(places.values())).square().sum(dim=0).sqrt()
    beside = strength / (strength.sum() / len(strength) + NORM_EPS)
    return {p: x + weight * (x * beside) + bias for p, x in places.items()}


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def linear(places: Places, state: State, name: str) -> Places:
    """A convolution with a kernel of one place."""
    return {p: state[f"{name}.weight"][:, :, 0, 0] @ x + state[f"{name}.bias"] for p, x in places.items()}


def convnext(image: Tensor, keep: Sequence[int], grid: Place, state: State) -> dict[int, Places]:
    """Visible places after each stage, by the stage's stride."""
    height, width = image.shape[1:]
    stem = state["stem.0.weight"]
    stride = stem.shape[2]
    pixels = {place: image[:, place[0], place[1]] for place in visible_places(keep, grid, height, width)}
    visible = visible_places(keep, grid, height // stride, width // stride)
    x = convolve(pixels, stem, state["stem.0.bias"], visible, stride=stride)
    x = {p: layer_norm(v, state["stem.1.weight"], state["stem.1.bias"]) for p, v in x.items()}
    found = {}
    for stage in range(4):
        lead = f"stages.{stage}.downsample"
        if f"{lead}.1.weight" in state:
            side = state[f"{lead}.1.weight"].shape[2]
            stride *= side
            visible = visible_places(keep, grid, height // stride, width // stride)
            x = {p: layer_norm(v, state[f"{lead}.0.weight"], state[f"{lead}.0.bias"]) for p, v in x.items()}
            x = convolve(x, state[f"{lead}.1.weight"], state[f"{lead}.1.bias"], visible, stride=side)
        block = 0
        while f"stages.{stage}.blocks.{block}.conv_dw.weight" in state:
            x = convnext_block(x, state, f"stages.{stage}.blocks.{block}")
            block += 1
        found[stride] = x
    return found


def convnext_block(x: Places, state: State, name: str) -> Places:
    kernel = state[f"{name}.conv_dw.weight"]
    y = convolve(x, kernel, state[f"{name}.conv_dw.bias"], list(x), padding=kernel.shape[2] // 2)
    y = {p: layer_norm(v, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]) for p, v in y.items()}
    y = {p: gelu(v) for p, v in linear(y, state, f"{name}.mlp.fc1").items()}
    if f"{name}.mlp.grn.weight" in state:
        y = response_norm(y, state[f"{name}.mlp.grn.weight"], state[f"{name}.mlp.grn.bias"])
    y = linear(y, state, f"{name}.mlp.fc2")
    gamma = state.get(f"{name}.gamma")
    return {p: x[p] + (v if gamma is None else gamma * v) for p, v in y.items()}


def decode(
    levels: Mapping[int, Sequence[Places]], state: State, grid: Place, *, width: int, batch_norms: bool
) -> list[Tensor]:
    """Predicted images [3, H, W]; `levels` are, by stride, the visible places of each image. Norms as in training."""
    coarsest = max(levels)
    count = len(levels[coarsest])
    sides = grid
    maps: list[Tensor] = []
    for step in range(int(math.log2(coarsest))):
        stride = coarsest >> step
        if stride in levels:
            filled = fill(levels[stride], state, f"fill.{stride}", sides, batch_norms=batch_norms)
            maps = [a + b for a, b in zip(maps, filled, strict=True)] if maps else filled
        assert maps[0].shape == (width >> step, *sides)
        maps = grow(maps, state, f"grow.{step}")
        sides = (sides[0] * 2, sides[1] * 2)
    assert len(maps) == count
    return [dense(x, state["predict.weight"], state["predict.bias"]) for x in maps]


def fill(images: Sequence[Places], state: State, name: str, sides: Place, *, batch_norms: bool) -> list[Tensor]:
    """Dense maps [C, H, W] of one level: normed places, the mask vector elsewhere, projected."""
    weight, bias = state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]
    if batch_norms:
        normed = batch_norm(images, weight, bias)[0]
    else:
        normed = [{p: layer_norm(x, weight, bias) for p, x in places.items()} for places in images]
    token = state[f"{name}.mask_token"]
    made = []
    for places in normed:
        rows = [torch.stack([places.get((r, c), token) for c in range(sides[1])], dim=1) for r in range(sides[0])]
        full = torch.stack(rows, dim=1)
        kernel = state.get(f"{name}.project.weight")
        made.append(full if kernel is None else dense(full, kernel, state[f"{name}.project.bias"]))
    return made


def grow(maps: Sequence[Tensor], state: State, name: str) -> list[Tensor]:
    x = [transposed(m, state[f"{name}.enlarge.weight"], state[f"{name}.enlarge.bias"]) for m in maps]
    x = dense_norm([dense(m, state[f"{name}.refine.0.weight"]) for m in x], state, f"{name}.refine.1")
    x = [m.clamp(0, 6) for m in x]
    return dense_norm([dense(m, state[f"{name}.refine.3.weight"]) for m in x], state, f"{name}.refine.4")


def dense(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution of [C, H, W] that keeps the sides, as a sum of shifted maps."""
    (_, height, width), side = x.shape, weight.shape[2]
    padded = torch.zeros(x.shape[0], height + side - 1, width + side - 1, dtype=x.dtype)
    padded[:, side // 2 : side // 2 + height, side // 2 : side // 2 + width] = x
    total = torch.zeros(weight.shape[0], height, width, dtype=x.dtype)
    for down in range(side):
        for across in range(side):
            shifted = padded[:, down : down + height, across : across + width]
            total = total + (weight[:, :, down, across] @ shifted.flatten(1)).view(-1, height, width)
    return total if bias is None else total + bias.view(-1, 1, 1)


def transposed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Every place of [C, H, W] painted into a 4 x 4 square of a map of twice the sides, whose rim is cut off."""
    _, height, width = x.shape
    total = torch.zeros(weight.shape[1], 2 * height + 2, 2 * width + 2, dtype=x.dtype)
    for down in range(4):
        for across in range(4):
            painted = (weight[:, :, down, across].T @ x.flatten(1)).view(-1, height, width)
            spread = torch.zeros_like(total)
            spread[:, down : down + 2 * height : 2, across : across + 2 * width : 2] = painted
            total = total + spread
    return total[:, 1:-1, 1:-1] + bias.view(-1, 1, 1)


def dense_norm(maps: Sequence[Tensor], state: State, name: str) -> list[Tensor]:
    """Batch norm of ordinary maps."""
    images = [{(r, c): m[:, r, c] for r in range(m.shape[1]) for c in range(m.shape[2])} for m in maps]
    normed, _, _ = batch_norm(images, state[f"{name}.weight"], state[f"{name}.bias"])
    return [torch.stack(list(n.values()), dim=1).view(m.shape) for n, m in zip(normed, maps, strict=True)]


def cells_of(image: Tensor, grid: Place) -> list[Tensor]:
    """The numbers of each cell of [3, H, W], row by row."""
    down, across = image.shape[1] // grid[0], image.shape[2] // grid[1]
    return [
        image[:, r * down : (r + 1) * down, c * across : (c + 1) * across].reshape(-1)
        for r in range(grid[0])
        for c in range(grid[1])
    ]


def statistics(cell: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of a cell's numbers, its variance unbiased."""
    mean = cell.sum() / len(cell)
    return mean, (((cell - mean) ** 2).sum() / (len(cell) - 1) + PIXEL_EPS).sqrt()


def cell_loss(
    predictions: Sequence[Tensor], images: Sequence[Tensor], keeps: Sequence[Sequence[int]], grid: Place
) -> Tensor:
    """Squared error, mean over a cell's numbers, then over all hidden cells of the batch."""
    errors = []
    for predicted, image, keep in zip(predictions, images, keeps, strict=True):
        for index, (own, cell) in enumerate(zip(cells_of(predicted, grid), cells_of(image, grid), strict=True)):
            if index not in keep:
                mean, deviation = statistics(cell)
                errors.append(((own - (cell - mean) / deviation) ** 2).sum() / len(cell))
    return torch.stack(errors).sum() / len(errors)
