"""What a stored view of a teacher depends on: all of it is the key under which it is found again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import PIL
import torch

from edgemim import __version__
from edgemim.config import resolved
from edgemim.methods._asked import Asked
from edgemim.models.teachers import Teacher
from edgemim.preprocess import Preprocess
from edgemim.training.settings.run import RunSettings
from edgemim.training.teacher_cache.store import FORMAT

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of a function in the description of a module


def facts_of(
    teacher: Teacher,
    asked: Asked,
    settings: RunSettings,
    contract: Preprocess,
    *,
    data: str,
    images: int,
    precision: str,
) -> dict[str, Any]:
    """Everything that decides what the teacher says of an image, as plain values.

    Args:
        teacher: With its weights.
        asked: What is stored.
        settings: Of the run; the seed and the augmentation decide the crops.
        contract: Of the student's images.
        data: Fingerprint of the images.
        images: How many there are.
        precision: Lightning's name of the arithmetic.
    """
    return {
        "format": FORMAT,
        "edgemim": __version__,
        "pillow": PIL.__version__,  # another one decodes JPEG files a little differently
        "teacher": {
            "architecture": teacher.origin.architecture,
            "fingerprint": fingerprint(teacher),
            "image_size": list(teacher.adapter.size),
        },
        "asked": resolved(asdict(asked)),
        "precision": precision,
        "data": {"fingerprint": data, "images": images},
        "contract": contract.to_dict(),
        "augmentation": resolved(settings.augmentation),
        "seed": settings.seed,
    }


def key_of(facts: Mapping[str, Any]) -> str:
    """32 hexadecimal digits, others for other facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def fingerprint(teacher: Teacher) -> str:
    """sha256 (hex) of a teacher's structure and tensors, and of the statistics and the size of its images."""
    model = teacher.model
    plain = {k: v for k, v in sorted(vars(model).items()) if isinstance(v, bool | int | float | str | tuple)}
    plain.pop("training")
    structure = _ADDRESS.sub("", f"{model}\n{plain}\n{teacher.adapter.size}\n")
    digest = hashlib.sha256(structure.encode())
    statistics = {"scale": teacher.scale, "shift": teacher.shift}
    for name, tensor in sorted({**model.state_dict(), **statistics}.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
