"""Predicting the pixels of hidden cells from the levels of a convnet that saw the others.

Source: Tian et al., "Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling", ICLR 2023,
    arXiv:2301.03580, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from edgemim.losses.mse import mse
from edgemim.methods._pixels import normalise_patches, patch_statistics, patchify, unpatchify
from edgemim.models.adapters.conv import ConvAdapter
from edgemim.models.mask_plan import MaskPlan, gather_tokens
from edgemim.models.unet_decoder import UNetDecoder


class CellReconstruction(nn.Module):
    """A UNet decoder and its target, cells of pixels normalised by their own mean and deviation.

    Args:
        adapter: Of the encoder.
        width: Of the decoder at the coarsest level.

    Attributes:
        blocks: Levels that the decoder is given, finest first: taps for the adapter.

    Raises:
        ConfigError: The encoder cannot be run on visible cells alone.
    """

    def __init__(self, adapter: ConvAdapter, *, width: int) -> None:
        super().__init__()
        adapter.check_sparse()
        self.cell = adapter.stride
        self.size = adapter.size
        self.levels = adapter.levels
        self.blocks = [level.block for level in self.levels]
        self.decoder = UNetDecoder(
            {level.stride: level.width for level in self.levels}, width=width, layer_norm=not _norms_batches(adapter)
        )

    def forward(self, taps: Mapping[int, Tensor], images: Tensor, plan: MaskPlan) -> Tensor:
        """Mean squared error on the masked cells; `taps` are the tokens of the levels."""
        target = normalise_patches(gather_tokens(patchify(images, self.cell), plan.mask_ids))
        predicted = gather_tokens(patchify(self._predict(taps, plan), self.cell), plan.mask_ids)
        return mse(student=predicted, teacher=target)

    def images(self, taps: Mapping[int, Tensor], images: Tensor, plan: MaskPlan) -> Tensor:
        """Predicted images, each cell with its own mean and deviation given back."""
        mean, deviation = patch_statistics(patchify(images, self.cell))
        cells = patchify(self._predict(taps, plan).float(), self.cell) * deviation + mean
        return unpatchify(cells, self.cell, self.size)

    def _predict(self, taps: Mapping[int, Tensor], plan: MaskPlan) -> Tensor:
        """[B, 3, H, W]: normalised cells, each in its place."""
        height, width = self.size
        maps = {
            level.stride: taps[level.block]
            .transpose(1, 2)
            .unflatten(2, (height // level.stride, width // level.stride))
            for level in self.levels
        }
        predicted: Tensor = self.decoder(maps, plan)
        return predicted


def _norms_batches(adapter: ConvAdapter) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in adapter.backbone.modules())
