"""A model that returns its patch tokens beside its head's output.

timm's models are `forward_head(forward_features(images))`; the tokens are what lies between the two.
"""

from __future__ import annotations

import copy
import types
from typing import Any

import torch

from edgemim.errors import ConfigError

TOKENS = "tokens"


def with_tokens(model: torch.nn.Module) -> torch.nn.Module:
    """The same layers, under the same names, with a forward that returns (head's output, tokens).

    The tokens are [B, N, D], as the last norm of `forward_features` leaves them; prefix tokens (class token,
    registers) are left out. A grid of features becomes N = H * W tokens, row by row.

    Raises:
        ConfigError: The model is not made of `forward_features` and `forward_head`.
    """
    if not all(callable(getattr(model, name, None)) for name in ("forward_features", "forward_head")):
        raise ConfigError(
            f"{type(model).__name__} has no forward_features and forward_head, so no tokens can be had; "
            "export it with --output head"
        )

    # A copy shares all layers with the original and, unlike a module around it, keeps their names. Its forward is
    # bound to it, so that a copy of the copy (with merged layers) runs its own.
    twin = copy.copy(model)
    twin.forward = types.MethodType(_forward, twin)
    return twin


def _forward(model: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    features = model.forward_features(images)
    return model.forward_head(features), _tokens(model, features)


def _tokens(model: torch.nn.Module, features: Any) -> torch.Tensor:
    """[B, N, D] of what `forward_features` returned.

    Raises:
        ConfigError: Neither tokens nor a grid of features.
    """
    shape = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
    if isinstance(features, torch.Tensor):
        if features.ndim == 3:
            return features[:, int(getattr(model, "num_prefix_tokens", 0)) :]
        width = getattr(model, "num_features", None)
        if features.ndim == 4 and features.shape[-1] == width:
            return features.flatten(1, 2)
        if features.ndim == 4 and features.shape[1] == width:
            return features.flatten(2).transpose(1, 2)
    raise ConfigError(
        f"forward_features of {type(model).__name__} returns {shape}, neither tokens nor a grid of features; "
        "export it with --output head"
    )
