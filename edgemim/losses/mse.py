"""Mean squared error over channels, then over the tokens that count.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv:2111.06377, section 3.
Needs: nothing
"""

from __future__ import annotations

from torch import Tensor

from edgemim.losses import LOSSES
from edgemim.losses._reduce import mean_over_tokens


def mse(*, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error between two sets of tokens, computed in float32.

    Args:
        student, teacher: [B, N, C].
        mask: bool [B, N], true where a token counts; None: all do.

    Returns:
        A scalar: mean over channels, then over all tokens of the batch that count.
    """
    return mean_over_tokens((student.float() - teacher.float()).square(), mask)


LOSSES.add("mse", mse)
