"""Crop, resize, mirror and jitter a whole batch at once, on whichever device it lies.

A bicubic resize is linear and separable: each side of a crop is a matrix, into which its place, its size and the mirror
are folded. So a batch of images of one size takes two batched matrix products instead of one call per image.
The result is that of cropping and resizing each image by itself, up to one grey level.

Source: the filter is Keys, "Cubic convolution interpolation for digital image processing", 1981, with a = -0.5,
widened by the factor by which the image shrinks (antialiasing, as in Pillow and torchvision).
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgemim.training.feed.draws import Crops

_WHITE = 255
_LARGEST = 2**15
_GREY = (0.2989, 0.587, 0.114)  # ITU-R BT.601


def cropped(pixels: Tensor, crops: Crops, size: tuple[int, int]) -> Tensor:
    """Crops of images of one size, resized.

    Args:
        pixels: uint8 [B, H, W, 3].
        crops: One for each image, on the same device.
        size: Height and width of the result.

    Returns:
        uint8 [B, 3, *size].
    """
    batch, height, width, channels = pixels.shape
    top, left, tall, wide = crops.boxes.to(torch.float32).unbind(1)
    across = _weights(left, wide, size[1], width, crops.mirrored)
    down = _weights(top, tall, size[0], height)
    # Inside a training step autocast would multiply in bf16, which has fewer digits than a pixel needs.
    with torch.autocast(pixels.device.type, enabled=False):
        rows = pixels.transpose(2, 3).reshape(batch, height * channels, width).to(torch.float32)
        # Width first, and rounded in between, as torchvision does.
        narrow = _rounded(torch.bmm(rows, across.transpose(1, 2)))
        small = _rounded(torch.bmm(down, narrow.view(batch, height, channels * size[1])))
    small = small.view(batch, size[0], channels, size[1])
    return small.transpose(1, 2).to(torch.uint8, memory_format=torch.contiguous_format)


def jittered(images: Tensor, factors: Tensor) -> Tensor:
    """Other brightness, then contrast, then saturation (He et al. use none; Ren et al., arXiv:2301.01296, do).

    Args:
        images: uint8 [B, 3, H, W].
        factors: float32 [B, 3], one for each of the three.

    Returns:
        uint8 [B, 3, H, W]; each step is rounded down to whole grey levels.
    """
    brightness, contrast, saturation = factors.view(-1, 3, 1, 1, 1).unbind(1)
    values = _whole(images * brightness)
    values = _blended(values, _grey(values).mean(dim=(2, 3), keepdim=True), contrast)
    return _blended(values, _grey(values), saturation).to(torch.uint8)


def _weights(start: Tensor, length: Tensor, out: int, source: int, mirrored: Tensor | None = None) -> Tensor:
    """The matrices [B, out, source] that cut `length` pixels from `start` on out of `source` and make `out` of them."""
    device = start.device
    places = torch.arange(out, device=device, dtype=torch.float32) + 0.5
    scale = (length / out)[:, None]
    centres = places * scale
    if mirrored is not None:
        centres = torch.where(mirrored[:, None], length[:, None] - centres, centres)
    pixels = torch.arange(source, device=device, dtype=torch.float32) + 0.5 - start[:, None]
    distance = (pixels[:, None] - centres[:, :, None]).abs_().div_(scale.clamp(min=1)[:, :, None])
    weights = _keys(distance)
    inside = (pixels > 0) & (pixels < length[:, None])
    weights *= inside[:, None]
    weights.div_(weights.sum(dim=2, keepdim=True))
    # To 16 bits, with as many digits as the largest one leaves: the kernel that resizes single images does so, and
    # its sums then come out the same to the last bit.
    digits = torch.log2((_LARGEST - 0.5) / weights.amax(dim=(1, 2), keepdim=True)).ceil_() - 1
    scale = torch.exp2(digits)  # a power of two: dividing by it is exact
    return weights.mul_(scale).round_().div_(scale)


def _keys(distance: Tensor) -> Tensor:
    """The filter at distances of 0 or more; it is 0 from 2 on."""
    far = distance.clamp_(max=2)
    near = (1.5 * far - 2.5) * far * far + 1
    return torch.where(far < 1, near, ((2.5 - 0.5 * far) * far - 4) * far + 2)


def _rounded(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0, _WHITE)


def _grey(values: Tensor) -> Tensor:
    red, green, blue = values.unbind(1)
    return (red * _GREY[0] + green * _GREY[1] + blue * _GREY[2]).floor().unsqueeze(1)


def _blended(values: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return _whole(values * share + other * (1 - share))


def _whole(values: Tensor) -> Tensor:
    return values.clamp(0, _WHITE).floor()
