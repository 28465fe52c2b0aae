"""Normalisations of a teacher's features, all without learned parameters and in float32.

CLIP and MAE features have a few channels of very large magnitude: without one of these they are the whole loss.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgemim.errors import ConfigError

NORMS = ("layer", "l2", "none")


def normalise_tokens(tokens: Tensor, kind: str) -> Tensor:
    """Tokens [B, N, C] as float32 targets.

    Args:
        tokens: Features of a teacher.
        kind: `layer`: mean 0 and (biased) variance 1 over the channels of each token, epsilon 1e-5; `l2`: unit
            length of each token; `none`.
    """
    if kind == "layer":
        return F.layer_norm(tokens.float(), tokens.shape[-1:], eps=1e-5)
    if kind == "l2":
        return F.normalize(tokens.float(), dim=-1)
    return tokens.float()


def check_norm(kind: str) -> None:
    """Refuse an unknown normalisation.

    Raises:
        ConfigError: Names the known ones.
    """
    if kind not in NORMS:
        raise ConfigError(f"method.target_norm must be one of {', '.join(NORMS)}; got {kind!r}")
