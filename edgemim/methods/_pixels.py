"""Predicting the pixels of hidden patches from visible tokens, the part that the MAE family shares.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgemim.losses.mse import mse
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.decoder import MAEDecoder
from edgemim.models.mask_plan import MaskPlan, gather_tokens


class PixelReconstruction(nn.Module):
    """A decoder and its pixel target.

    Args:
        adapter: Of the encoder.
        width, depth, heads: Of the decoder.
        norm_pix: Whether each target patch is shifted and scaled by its own mean and standard deviation.
    """

    def __init__(self, adapter: BackboneAdapter, *, width: int, depth: int, heads: int, norm_pix: bool) -> None:
        super().__init__()
        self.patch_size = adapter.patch_size
        self.norm_pix = norm_pix
        self.decoder = MAEDecoder(
            adapter.width,
            adapter.grid,
            3 * self.patch_size[0] * self.patch_size[1],
            width=width,
            depth=depth,
            heads=heads,
            num_prefix=adapter.num_prefix,
        )

    def forward(self, tokens: Tensor, images: Tensor, plan: MaskPlan) -> Tensor:
        """Mean squared error on the masked patches; tokens [B, P + K, D] are the encoder's output."""
        target = gather_tokens(patchify(images, self.patch_size), plan.mask_ids)
        if self.norm_pix:
            target = normalise_patches(target)
        return mse(student=self.decoder(tokens, plan, only_masked=True), teacher=target)

    def images(self, tokens: Tensor, images: Tensor, plan: MaskPlan) -> Tensor:
        """Predicted images; a normalised prediction is given back each patch's own mean and deviation."""
        predicted = self.decoder(tokens, plan).float()
        if self.norm_pix:
            mean, deviation = patch_statistics(patchify(images, self.patch_size))
            predicted = predicted * deviation + mean
        return unpatchify(predicted, self.patch_size, (images.shape[2], images.shape[3]))


def patchify(images: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """[B, 3, H, W] to [B, L, h * w * 3]: patches in row-major order, each as (row, column, channel)."""
    batch, channels, height, width = images.shape
    h, w = patch_size
    x = images.reshape(batch, channels, height // h, h, width // w, w)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, h * w * channels)


def unpatchify(patches: Tensor, patch_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The inverse of `patchify`, to images of `size` = (height, width)."""
    h, w = patch_size
    rows, columns = size[0] // h, size[1] // w
    x = patches.reshape(patches.shape[0], rows, columns, h, w, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(patches.shape[0], -1, *size)


def normalise_patches(patches: Tensor) -> Tensor:
    """Each patch shifted to mean 0 and scaled to unbiased variance 1 (epsilon 1e-6 inside the root)."""
    mean, deviation = patch_statistics(patches)
    return (patches.float() - mean) / deviation


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each patch, float32 [B, L, 1] each, of patches [B, L, C]; see `normalise_patches`."""
    variance, mean = torch.var_mean(patches.float(), dim=-1, keepdim=True)
    return mean, (variance + 1e-6).sqrt()
