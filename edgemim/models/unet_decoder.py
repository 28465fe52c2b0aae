"""The light decoder that fills hidden cells from the levels of a convnet, thrown away after pretraining.

Source: Tian et al., "Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling", ICLR 2023,
    arXiv:2301.03580, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.sparse.active import ActivePlaces
from edgemim.models.sparse.forms import batch_norm, cleared


class UNetDecoder(nn.Module):
    """From the coarsest level on, each step doubles the sides and halves the width; finer levels are added on the way.

    Args:
        widths: Channels of each level by its stride; strides are powers of two, and the largest is that of the cells.
        width: Of the decoder at the coarsest level.
        layer_norm: Whether levels are normalised by their channels, as a ConvNeXt does, instead of over the batch.

    Raises:
        ConfigError: The width cannot be halved so often.
    """

    def __init__(self, widths: Mapping[int, int], *, width: int = 768, layer_norm: bool = False) -> None:
        super().__init__()
        coarsest = max(widths)
        steps = coarsest.bit_length() - 1
        if width < 1 or width % coarsest:
            raise ConfigError(
                f"method.decoder_width {width} cannot be halved {steps} times, once for each doubling from stride "
                f"{coarsest} to pixels; choose a multiple of {coarsest}"
            )
        self.strides = [coarsest >> step for step in range(steps)]
        self.fill = nn.ModuleDict(
            {
                str(stride): Densify(
                    channels, width * stride // coarsest, coarsest=stride == coarsest, layer_norm=layer_norm
                )
                for stride, channels in sorted(widths.items(), reverse=True)
            }
        )
        self.grow = nn.ModuleList(Step(width * s // coarsest, width * s // coarsest // 2) for s in self.strides)
        self.predict = nn.Conv2d(width // coarsest, 3, kernel_size=1)
        for part in (self.grow, self.predict):
            part.apply(_initialise)

    def forward(self, maps: Mapping[int, Tensor], plan: MaskPlan) -> Tensor:
        """Images [B, 3, H, W].

        Args:
            maps: Each level [B, C, H / stride, W / stride] by its stride, zero in hidden cells.
            plan: Of these images.
        """
        active = ActivePlaces(plan)
        x: Tensor | None = None
        for stride, grow in zip(self.strides, self.grow, strict=True):
            if stride in maps:
                level = self.fill[str(stride)](maps[stride], active)
                x = level if x is None else x + level
            x = grow(x)
        images: Tensor = self.predict(x)
        return images


class Densify(nn.Module):
    """A level with a learned vector in its hidden cells, projected to the decoder's width.

    Args:
        channels: Of the level.
        width: Of the decoder there.
        coarsest: Whether it is the coarsest level, which is projected place by place, or not at all where widths agree.
        layer_norm: See `UNetDecoder`.
    """

    def __init__(self, channels: int, width: int, *, coarsest: bool, layer_norm: bool) -> None:
        super().__init__()
        self.norm: nn.Module = LayerNorm2d(channels) if layer_norm else nn.BatchNorm2d(channels)
        self.mask_token = nn.Parameter(torch.empty(channels))
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)
        side = 1 if coarsest else 3
        same = coarsest and channels == width
        self.project = nn.Identity() if same else nn.Conv2d(channels, width, side, padding=side // 2)

    def forward(self, maps: Tensor, active: ActivePlaces) -> Tensor:
        """[B, width, H, W] of maps [B, channels, H, W]."""
        normed = (cleared if isinstance(self.norm, nn.LayerNorm) else batch_norm)(self.norm, active, maps)
        hidden = active.hidden(maps.shape[2], maps.shape[3])
        full = torch.where(hidden, self.mask_token.to(normed.dtype).view(1, -1, 1, 1), normed)
        projected: Tensor = self.project(full)
        return projected


class Step(nn.Module):
    """Twice the sides: a transposed convolution, then two plain ones with batch norm; the last halves the width.

    Args:
        width: Channels that come in.
        out: Channels that go out.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.enlarge = nn.ConvTranspose2d(width, width, kernel_size=4, stride=2, padding=1)
        self.refine = nn.Sequential(
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(inplace=True),
            nn.Conv2d(width, out, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, out, 2 H, 2 W] of [B, width, H, W]."""
        refined: Tensor = self.refine(self.enlarge(x))
        return refined


def _initialise(module: nn.Module) -> None:
    """As the released code: what projects the levels keeps torch's own start, which this leaves out."""
    if isinstance(module, nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
