"""Outputs of a model for many images, in the order of the set."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from edgemim.preprocess import Preprocess
from edgemim.training.feed.inputs import Decodable

_BATCH = 256


def spread(images: int, most: int) -> range:
    """At most `most` of `images` indices, evenly spaced: the first ones of a sorted set would be of one class."""
    return range(0, images, -(-images // most))


def normalised_batches(decoded: Decodable, contract: Preprocess, rows: range) -> Iterator[Tensor]:
    """float32 [B, 3, H, W] batches through the evaluation transform."""
    for start in range(0, len(rows), _BATCH):
        block = rows[start : start + _BATCH]
        pixels = np.stack([contract.pixels(Image.fromarray(decoded.get(i))) for i in block])
        yield torch.from_numpy(contract.normalise(pixels))


@torch.no_grad()  # not inference_mode: what a model caches there could not be trained through afterwards
def outputs(
    forward: Callable[[Tensor], Tensor], decoded: Decodable, contract: Preprocess, rows: range | None = None
) -> Tensor:
    """`forward` of the images `rows` (None: all), float32 [N, ...] on the CPU."""
    rows = range(len(decoded)) if rows is None else rows
    device = _device(forward)
    parts = [forward(batch.to(device)).float().cpu() for batch in normalised_batches(decoded, contract, rows)]
    return torch.cat(parts)


def patch_features(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Mean of a backbone's final patch tokens, [B, D]; of its feature map for a convnet or a staged transformer."""

    class _Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            tokens: Tensor = self.model.forward_features(images)  # type: ignore[operator]
            if tokens.dim() == 4:
                last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"  # where timm keeps a map's channels
                return tokens.mean(dim=(1, 2) if last else (2, 3))
            return tokens[:, getattr(self.model, "num_prefix_tokens", 0) :].mean(dim=1)

    return _Pooled().eval()


def _device(forward: Callable[[Tensor], Tensor]) -> torch.device:
    if isinstance(forward, nn.Module):
        return next(forward.parameters()).device
    return torch.device("cpu")
