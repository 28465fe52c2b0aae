"""Pictures that a run draws as it goes: what was shown, what was hidden, what the method made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from edgemim.methods._base import Batch, Method
from edgemim.methods._pixels import patchify, unpatchify
from edgemim.methods._teacher_view import look
from edgemim.models.mask_plan import VISIBLE, MaskPlan
from edgemim.preprocess import Pixels, Preprocess

_GREY = 0.5
_GAP = 2
_SMALLEST = 96


@torch.no_grad()
def draw(method: Method, batch: Batch, contract: Preprocess, *, seed: int = 0) -> tuple[str, Image.Image] | None:
    """Rows for a few images: the image, its visible patches, and the visible patches with the prediction.

    Args:
        method: Of the run.
        batch: The images to show, on the method's device.
        contract: Whose mean and std turn them back into colours.
        seed: Of the mask, so that every picture of a run hides the same patches.

    Returns:
        `reconstructions` and the three rows; `masks` and two of them where the method predicts no pixels; None where
        it hides nothing.
    """
    if not method.masks:
        return None
    rng = torch.Generator(device=batch.images.device).manual_seed(seed)
    signals = method.signals(batch) if method.masking.needs else {}
    if method.masking.needs and method.teacher is not None:
        signals |= look(method.teacher, batch, method.asked).signals
    plan = method.draw(batch, rng, signals)
    training = method.training
    method.eval()
    predicted = method.reconstruct(batch, plan)
    method.train(training)
    shown = _hide(batch.images, plan, method.adapter.patch_size)
    rows = [batch.images, shown]
    if predicted is not None:
        rows.append(torch.where(torch.isnan(shown), predicted, shown))
    return "masks" if predicted is None else "reconstructions", _tile([_colours(row, contract) for row in rows])


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a PNG through a temporary sibling."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.partial")
    image.save(draft, format="PNG")
    draft.replace(path)


def _hide(images: Tensor, plan: MaskPlan, patch_size: tuple[int, int]) -> Tensor:
    patches = patchify(images, patch_size)
    hidden = (plan.role != VISIBLE).unsqueeze(-1)
    return unpatchify(patches.masked_fill(hidden, float("nan")), patch_size, (images.shape[2], images.shape[3]))


def _colours(images: Tensor, contract: Preprocess) -> Pixels:
    mean = torch.tensor(contract.mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(contract.std, device=images.device).view(1, 3, 1, 1)
    colours = torch.nan_to_num(images.float() * std + mean, nan=_GREY).clamp(0, 1)
    pixels: Pixels = (colours * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def _tile(rows: list[Pixels]) -> Image.Image:
    """Rows of equally big images on white, small ones enlarged so that a person can see them."""
    factor = max(1, -(-_SMALLEST // rows[0].shape[1]))
    rows = [row.repeat(factor, axis=1).repeat(factor, axis=2) for row in rows]
    height, width = rows[0].shape[1:3]
    columns = len(rows[0])
    sheet = np.full((len(rows) * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), 255, dtype=np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            top, left = _GAP + r * (height + _GAP), _GAP + c * (width + _GAP)
            sheet[top : top + height, left : left + width] = image
    return Image.fromarray(sheet)
