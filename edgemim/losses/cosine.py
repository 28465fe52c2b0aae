"""One minus the cosine between two tokens, mean over the tokens that count.

Source: Zhang et al., "CAE v2: Context Autoencoder with CLIP Target", arXiv:2211.09799.
Needs: nothing
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgemim.losses import LOSSES
from edgemim.losses._reduce import mean_over_tokens


def cosine(*, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 - cos(student, teacher) of each token, in [0, 2], computed in float32.

    Args:
        student, teacher: [B, N, C].
        mask: bool [B, N], true where a token counts; None: all do.

    Returns:
        A scalar: mean over all tokens of the batch that count.
    """
    # Half the squared distance of the unit vectors is the same number, and exactly 0 for equal tokens.
    apart = F.normalize(student.float(), dim=-1) - F.normalize(teacher.float(), dim=-1)
    return mean_over_tokens(apart.square().sum(dim=-1, keepdim=True) / 2, mask)


LOSSES.add("cosine", cosine)
