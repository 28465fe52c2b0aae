"""Kullback-Leibler divergence of the student's classes from the teacher's, softened by a temperature.

Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2.
Needs: nothing
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgemim.losses import LOSSES
from edgemim.losses._reduce import mean_over_tokens


def kl(*, student: Tensor, teacher: Tensor, mask: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """T * T * KL(softmax(teacher / T) || softmax(student / T)), computed in float32.

    The factor keeps the size of the gradient about the same whatever the temperature T is.

    Args:
        student, teacher: Logits [..., C] of the same classes.
        mask: bool [...], true where a row of logits counts; None: all do.
        temperature: T, above 0.

    Returns:
        A scalar: sum over classes, then mean over all rows that count.
    """
    log_student = F.log_softmax(student.float() / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=-1)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=-1, keepdim=True)
    return mean_over_tokens(divergence, mask) * temperature**2


LOSSES.add("kl", kl)
