"""Kullback-Leibler divergence of the student's distributions from the teacher's: of classes, or of relations.

Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2 (classes, softened
    by a temperature); Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of
    Pre-Trained Transformers", NeurIPS 2020, arXiv:2002.10957, section 3 (each token's relations to all others).
Needs: nothing
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from edgemim.losses import LOSSES
from edgemim.losses._reduce import mean_over_tokens


def kl(*, student: Tensor, teacher: Tensor, mask: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """T * T * KL(softmax(teacher / T) || softmax(student / T)) of each row, in float32.

    The factor keeps the size of the gradient about the same whatever the temperature T is.

    Args:
        student, teacher: Logits [..., C]: of C classes, or of a token's relations to C keys.
        mask: bool [...], true where a row of logits counts; None: all do.
        temperature: T, above 0.

    Returns:
        A scalar: sum over C, then mean over all rows that count. No gradient goes to the teacher.
    """
    divergence: Tensor = _Divergence.apply(_softened(student, temperature), _softened(teacher, temperature))
    return mean_over_tokens(divergence, mask) * temperature**2


def _softened(logits: Tensor, temperature: float) -> Tensor:
    return logits.float() if temperature == 1 else logits.float() / temperature


class _Divergence(torch.autograd.Function):
    """KL of each row, [..., N, 1]; its gradient is the difference of the probabilities, which is all that is kept.

    Relations are by far the largest tensors of a step that compares them: autograd would keep two of this size.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        # The logarithm of a softmax would be minus infinity where the softmax underflows.
        log_student, log_teacher = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
        wanted = log_teacher.exp()
        rows = log_teacher.sub_(log_student).mul_(wanted).sum(dim=-1, keepdim=True)
        ctx.save_for_backward(log_student.exp_().sub_(wanted))
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return difference * gradient, None


LOSSES.add("kl", kl)
