"""The same training by several implementations, step for step: the same weights to begin with, images and masks."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from edgemim.models.mask_plan import MaskPlan
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD
from edgemim.training.loop.optimiser import learning_rate_factor
from edgemim.training.settings.training import TrainingSettings

from .cifar10 import read_split
from .official import Official, take_weights
from .trainee import Trainee
from .training_cases import MASK_RATIO, Case, Edgemim, make_method

REFERENCE, OTHER_MASKS, EAGER, COMPILED = "released", "released, other masks", "edgemim", "edgemim, compiled"
_IMAGES = 2048


def loss_curves(
    case: Case,
    checkout: Path,
    *,
    device: torch.device,
    precision: str,
    batch_size: int,
    steps: int,
    data: Path | None,
) -> dict[str, Any]:
    """Losses of `steps` steps of each, and how far each is from the released one.

    The released step is run a second time with other masks: two runs of the same code that differ in nothing but a seed
    are the noise with which the others are to be compared.

    Args:
        case: What is trained.
        checkout: Of its method.
        device, precision: As the implementations take them.
        batch_size: Images per step.
        steps: To take.
        data: Folder with CIFAR-10; None: generated pictures.
    """
    settings = TrainingSettings(steps=steps, batch_size=batch_size, base_lr=1.5e-4, warmup=0.1)
    images = pictures(case, data)
    torch.manual_seed(0)
    first = Official(checkout, case, device=device, precision=precision, fused=False, lr=settings.learning_rate)
    second = Official(checkout, case, device=device, precision=precision, fused=False, lr=settings.learning_rate)
    second.model.load_state_dict(first.model.state_dict())
    if second.teacher is not None:
        second.teacher.load_state_dict(first.teacher.state_dict())
    trainees: dict[str, Trainee] = {REFERENCE: first, OTHER_MASKS: second}
    for name in (EAGER, COMPILED):
        method = make_method(case)
        take_weights(method, first)
        compiles = name == COMPILED
        trainees[name] = Edgemim(method, settings, device=device, precision=precision, compiles=compiles)
    curves: dict[str, list[float]] = {name: [] for name in trainees}
    factor = learning_rate_factor(settings, steps)
    for step in range(steps):
        batch = images[torch.arange(step * batch_size, (step + 1) * batch_size) % len(images)].to(device)
        for name, trainee in trainees.items():
            _set_rate(trainee, settings.learning_rate * factor(step))
            curves[name].append(float(_masked_step(trainee, batch, case, step + (name == OTHER_MASKS) * 10**6)))
    for trainee in trainees.values():
        if isinstance(trainee, Edgemim):
            trainee.close()
    return {
        "case": case.shown,
        "precision": precision,
        "batch_size": batch_size,
        "steps": steps,
        "images": "CIFAR-10" if data else "generated",
        "relative_difference": {n: difference(curves[n], curves[REFERENCE]) for n in curves if n != REFERENCE},
        "curves": {name: [round(v, 6) for v in values] for name, values in curves.items()},
    }


def difference(curve: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """Of two curves, step by step, relative to the second: mean, most, and that of the means of the last tenth."""
    each = [abs(a - b) / abs(b) for a, b in zip(curve, reference, strict=True)]
    last = max(1, len(each) // 10)
    end, other = statistics.fmean(curve[-last:]), statistics.fmean(reference[-last:])
    return {"mean": statistics.fmean(each), "most": max(each), "end": abs(end - other) / abs(other)}


def pictures(case: Case, data: Path | None) -> Tensor:
    """float32 [N, 3, H, W], normalised: CIFAR-10's first images at the size of the case, or smooth random colours."""
    if data is None:
        rng = torch.Generator().manual_seed(0)
        small = torch.rand(_IMAGES, 3, 8, 8, generator=rng)
    else:
        encoded = read_split(data, "train")[0][:_IMAGES]
        arrays = np.stack([np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in encoded])
        small = torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    whole = F.interpolate(small, (case.size, case.size), mode="bicubic").clamp(0, 1)
    return (whole - mean) / std


def _masked_step(trainee: Trainee, images: Tensor, case: Case, seed: int) -> Tensor:
    """A step whose visible patches follow from `seed`, which the released code draws from torch's own generator."""
    grid = (case.size // case.patch, case.size // case.patch)
    torch.manual_seed(seed)
    if isinstance(trainee, Edgemim):
        noise = torch.rand(len(images), grid[0] * grid[1], device=images.device)
        keep = noise.argsort(dim=1)[:, : int(noise.shape[1] * (1 - MASK_RATIO))]
        trainee.plan = MaskPlan.from_keep_ids(keep, grid)
    return trainee.step(images)


def _set_rate(trainee: Any, rate: float) -> None:
    for group in trainee.optimiser.param_groups:
        group["lr"] = rate
