"""Learned sums of a student's levels, one for each level of a teacher.

Source: Xue et al., "Stare at What You See: Masked Image Modeling without Reconstruction", CVPR 2023,
    arXiv:2211.08887, section 3 (dynamic alignment).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Lets every level of the student say something to every one of the teacher from the start.
_LEAK = 0.01


class LevelMixer(nn.Module):
    """A trainable matrix [teacher_depth, student_depth].

    Equal depths start from the identity + 0.01, so that level a is mostly the student's own level a; others from
    the mean of all levels.

    Args:
        student_depth, teacher_depth: Blocks of each.
    """

    def __init__(self, student_depth: int, teacher_depth: int) -> None:
        super().__init__()
        if student_depth == teacher_depth:
            weight = torch.eye(student_depth) + _LEAK
        else:
            weight = torch.full((teacher_depth, student_depth), 1 / student_depth)
        self.weight = nn.Parameter(weight)

    def forward(self, tokens: Sequence[Tensor], levels: Sequence[int]) -> tuple[Tensor, ...]:
        """From the student's [B, N, D] after each of its blocks to one [B, N, D] for each of the `levels`."""
        rows = torch.stack([self.weight[level] for level in levels])
        return torch.einsum("al,lbnd->abnd", rows, torch.stack(tuple(tokens))).unbind(0)
