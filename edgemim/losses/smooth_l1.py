"""Huber's distance: squared below `beta`, absolute above, mean over channels, then over the tokens that count.

Source: Girshick, "Fast R-CNN", ICCV 2015, arXiv:1504.08083, section 2.3 (beta 1).
Needs: nothing
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgemim.losses import LOSSES
from edgemim.losses._reduce import mean_over_tokens


def smooth_l1(*, student: Tensor, teacher: Tensor, mask: Tensor | None = None, beta: float = 1.0) -> Tensor:
    """0.5 * d * d / beta where d = |student - teacher| is below beta, d - beta / 2 elsewhere, in float32.

    Args:
        student, teacher: [B, N, C].
        mask: bool [B, N], true where a token counts; None: all do.
        beta: Where the square ends, above 0.

    Returns:
        A scalar: mean over channels, then over all tokens of the batch that count.
    """
    return mean_over_tokens(F.smooth_l1_loss(student.float(), teacher.float(), reduction="none", beta=beta), mask)


LOSSES.add("smooth-l1", smooth_l1)
