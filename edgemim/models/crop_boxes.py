"""Where each image of a batch was cut out of its original, so that what is known of the original can follow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CropBoxes:
    """Of B images.

    Attributes:
        boxes: float32 [B, 4]: top, left, height and width of each crop, as shares of its original's sides.
        mirrored: bool [B]: turned left to right after it was cut out.
    """

    boxes: Tensor
    mirrored: Tensor


def follow_crop(maps: Tensor, crops: CropBoxes, size: tuple[int, int]) -> Tensor:
    """What maps of whole images say of crops of them, cut out, resized and mirrored as the images were.

    A map is constant within each of its cells, and a cell of the result is its exact mean over what that cell shows.

    Args:
        maps: [B, h, w], one for each original.
        crops: Of the same B images, on the same device.
        size: Height and width of the result, in cells.

    Returns:
        float32 [B, *size].
    """
    top, left, height, width = crops.boxes.unbind(1)
    down = _shares(top, height, maps.shape[1], size[0])
    across = _shares(left, width, maps.shape[2], size[1])
    # In the half precision of a training step the shares would be off by a part in 256.
    with torch.autocast(maps.device.type, enabled=False):
        cut = down @ maps.float() @ across.transpose(1, 2)
    return torch.where(crops.mirrored[:, None, None], cut.flip(2), cut)


def _shares(start: Tensor, length: Tensor, cells: int, parts: int) -> Tensor:
    """[B, parts, cells]: how much of each of the equal parts of a stretch lies in each cell of its line.

    Args:
        start, length: [B], of the stretches, where the line's length is 1.
        cells: Into which the line is divided.
        parts: Into which a stretch is divided.
    """
    ends = torch.arange(parts + 1, device=start.device, dtype=torch.float32) / parts
    edges = (start[:, None] + length[:, None] * ends) * cells
    begin, end = edges[:, :-1, None], edges[:, 1:, None]
    cell = torch.arange(cells, device=start.device, dtype=torch.float32)
    common = torch.minimum(end, cell + 1) - torch.maximum(begin, cell)
    return common.clamp(min=0) / (end - begin)
