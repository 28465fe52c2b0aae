"""A teacher as what fills a store: raw batches in, named rows out."""

from __future__ import annotations

import torch
from torch import Tensor

from edgemim.methods._asked import Asked
from edgemim.methods._teacher_view import ask
from edgemim.models.teachers import Teacher
from edgemim.preprocess import Preprocess
from edgemim.training.feed.images import Raw

# The tensors with a row for each token are nearly all of a store; what is small is kept in float32.
_LARGE = ("block", "queries", "keys", "values")


class Eyes:
    """A teacher on a device, and what it is asked.

    Args:
        teacher: Frozen; moved to the device at the first look.
        asked: What is wanted.
        contract: Of the student, whose mean and std normalise the images.
        device: Where it runs.
        bf16: Run it under autocast, as a training step would, and give its tokens in bf16 too.
    """

    def __init__(
        self, teacher: Teacher, asked: Asked, contract: Preprocess, *, device: torch.device, bf16: bool
    ) -> None:
        self.teacher = teacher
        self.asked = asked
        self.device = device
        self.bf16 = bf16
        self.mean = torch.tensor(contract.mean, device=device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(contract.std, device=device).view(1, 3, 1, 1) * 255

    def __call__(self, raw: Raw) -> dict[str, Tensor]:
        """What it sees in the uint8 images of a batch, on the CPU, by the names of a store's columns."""
        pixels = raw.get("plain", raw["images"]).to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            view = ask(self.teacher.to(self.device), (pixels.float() - self.mean) / self.std, self.asked)
        return {name: tensor.to(self._dtype(name)).cpu() for name, tensor in view.tensors().items()}

    def _dtype(self, name: str) -> torch.dtype:
        return torch.bfloat16 if self.bf16 and name.split("_")[0] in _LARGE else torch.float32
