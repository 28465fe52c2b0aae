"""SiT's contrastive half once more: one vector at a time, in float64, written from the specification."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def project(pieces: ModuleType, vector: Tensor, state: State) -> Tensor:
    """Three linear layers with a norm after each, the last without weights; then a ReLU, a GELU, nothing."""
    x = pieces.layer_norm(pieces.linear(vector[None], state, "0"), state, "1")
    x = torch.where(x > 0, x, torch.zeros_like(x))
    x = pieces.gelu(pieces.layer_norm(pieces.linear(x, state, "3"), state, "4"))
    x = pieces.linear(x, state, "6")[0]
    centred = x - x.sum() / len(x)
    return centred / ((centred * centred).sum() / len(x) + 1e-6).sqrt()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a * a).sum().sqrt() / (b * b).sum().sqrt()


def info_nce(students: Sequence[Tensor], teachers: Sequence[Tensor], temperature: float, own: int = 0) -> Tensor:
    """Whether each student is found to belong to the teacher of its number, `own` being that of the first one."""
    losses = []
    for number, student in enumerate(students):
        weights = [torch.exp(cosine(student, teacher) / temperature) for teacher in teachers]
        losses.append(-torch.log(weights[own + number] / sum(weights)))
    return torch.stack(losses).sum() / len(losses) * 2 * temperature


def momentum(first: float, step: int, steps: int) -> float:
    """A cosine from `first` to 1."""
    return 1.0 + (first - 1.0) * 0.5 * (math.cos(math.pi * step / steps) + 1.0)
