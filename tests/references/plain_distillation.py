"""The unmasked losses once more: one image, one token and one class at a time, in float64.

Written from the specification and the papers; plain arithmetic, so that autograd gives the gradients, and nothing
shared with edgemim or timm. The blocks in front are those of the masked autoencoder's file.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EPS = 1e-5


def normalised(token: Tensor, kind: str) -> Tensor:
    """A teacher's token [C]: `layer` (mean 0, variance 1 over its channels), `l2` (unit length), `none`."""
    if kind == "layer":
        mean = sum(token) / len(token)
        variance = sum((number - mean) ** 2 for number in token) / len(token)
        return torch.stack([(number - mean) / (variance + EPS) ** 0.5 for number in token])
    if kind == "l2":
        return token / _length(token)
    return token


def distance(student: Tensor, teacher: Tensor, kind: str) -> Tensor:
    """Of two tokens [C]: a mean over channels, or one minus their cosine."""
    if kind == "cosine":
        products = [a * b for a, b in zip(student, teacher, strict=True)]
        return 1 - sum(products, torch.zeros((), dtype=student.dtype)) / (_length(student) * _length(teacher))
    found = []
    for a, b in zip(student, teacher, strict=True):
        apart = (a - b).abs()
        if kind == "l1":
            found.append(apart)
        elif kind == "mse" or (kind == "smooth-l1" and apart < 1):
            found.append(apart * apart * (1.0 if kind == "mse" else 0.5))
        else:
            found.append(apart - 0.5)
    return torch.stack(found).sum() / len(found)


def feature_loss(students: Sequence[Tensor], teachers: Sequence[Tensor], norm: str, kind: str) -> Tensor:
    """Tokens [N, C] of each image: mean distance over all tokens of all images."""
    found = [
        distance(a, normalised(b.detach(), norm), kind)
        for student, teacher in zip(students, teachers, strict=True)
        for a, b in zip(student, teacher, strict=True)
    ]
    return torch.stack(found).sum() / len(found)


def class_loss(students: Sequence[Tensor], teachers: Sequence[Tensor], temperature: float) -> Tensor:
    """Logits [C] of each image: the divergence of the softened classes times the temperature squared, mean."""
    total = torch.zeros((), dtype=torch.float64)
    for student, teacher in zip(students, teachers, strict=True):
        wanted = _probabilities(teacher.detach(), temperature)
        for probability, target in zip(_probabilities(student, temperature), wanted, strict=True):
            total = total + target * (torch.log(target) - torch.log(probability))
    return total * temperature**2 / len(students)


def summary_loss(students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
    """Vectors [C] of each image: squared distance, summed over channels, mean over images."""
    total = torch.zeros((), dtype=torch.float64)
    for student, teacher in zip(students, teachers, strict=True):
        for a, b in zip(student, teacher.detach(), strict=True):
            total = total + (a - b) ** 2
    return total / len(students)


def _length(token: Tensor) -> Tensor:
    return torch.sqrt(sum((number * number for number in token), torch.zeros((), dtype=token.dtype)))


def _probabilities(logits: Tensor, temperature: float) -> list[Tensor]:
    exponentials = [torch.exp(number / temperature) for number in logits]
    return [e / sum(exponentials, torch.zeros((), dtype=logits.dtype)) for e in exponentials]
