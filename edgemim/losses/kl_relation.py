"""Kullback-Leibler divergence of the student's relations from the teacher's, summed over the keys.

Source: Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
    Transformers", NeurIPS 2020, arXiv:2002.10957, section 3.
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


def kl_relation(*, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) of each token's relations to all others, in float32.

    Args:
        student, teacher: Relations before the softmax, [..., N, C]: N tokens, C keys.
        mask: bool [..., N], true where a token counts; None: all do.

    Returns:
        A scalar: sum over the keys, then mean over all tokens that count (of all heads and images). No gradient
        goes to the teacher.
    """
    divergence: Tensor = _Divergence.apply(student.float(), teacher.float())
    return mean_over_tokens(divergence, mask)


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


LOSSES.add("kl-relation", kl_relation)
