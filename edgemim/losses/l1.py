"""Mean absolute error over channels, then over the tokens that count.

Source: Bai et al., "Masked Autoencoders Enable Efficient Knowledge Distillers", CVPR 2023, arXiv:2208.12256, section 3.
Needs: nothing
"""

from __future__ import annotations

from torch import Tensor

from edgemim.losses import LOSSES
from edgemim.losses._reduce import mean_over_tokens


def l1(*, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute error between two sets of tokens, computed in float32.

    Args:
        student, teacher: [B, N, C].
        mask: bool [B, N], true where a token counts; None: all do.

    Returns:
        A scalar: mean over channels, then over all tokens of the batch that count.
    """
    return mean_over_tokens((student.float() - teacher.float()).abs(), mask)


LOSSES.add("l1", l1)
