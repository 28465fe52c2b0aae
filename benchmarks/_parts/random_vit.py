"""A timm backbone with random weights as a checkpoint: as fast as a trained one, and there without a download."""

from __future__ import annotations

from pathlib import Path

import torch

from edgemim.artifact import MANIFEST
from edgemim.models.build import build_backbone
from edgemim.models.checkpoint import CheckpointInfo, save_checkpoint
from edgemim.preprocess import Preprocess


def random_checkpoint(folder: Path, name: str, *, size: int = 224, num_classes: int = 1000) -> Path:
    """Write the checkpoint if it is not there yet, from a fixed seed; biases are random as well.

    timm starts biases at zero; a graph in which they are equal would be stored, and perhaps run, differently.
    """
    if not (folder / MANIFEST).exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build_backbone(name, {}, num_classes=num_classes).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim <= 1:
                        parameter.add_(torch.randn_like(parameter) * 0.1)
        info = CheckpointInfo(
            architecture=name,
            model_args={},
            preprocess=Preprocess(size=(size, size)),
            num_classes=num_classes,
        )
        save_checkpoint(folder, model, info)
    return folder
