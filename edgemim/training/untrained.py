"""Parameters that a method leaves as they were: found, listed, and kept from doing harm in what ships.

Some methods never look at the end of the backbone (MiniLM and TinyMIM end inside the last block, MaskAlign before
the final norm). What lies behind is random in a fresh backbone, and would be shipped as if it had been learnt.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import torch
from torch import nn

_TEACHER = "teacher."
# The last layer of a residual branch, by timm's names: at zero the branch adds nothing.
_BRANCH_ENDS = (".attn.proj", ".mlp.fc2")


def without_gradient(module: nn.Module) -> tuple[str, ...]:
    """Names of trainable parameters whose gradient is missing or zero; a teacher's are not looked at."""
    found = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and not name.startswith(_TEACHER):
            gradient = parameter.grad
            if gradient is None or not bool(gradient.any()):
                found.append(name)
    return tuple(found)


@torch.no_grad()
def neutralise(backbone: nn.Module, untrained: Collection[str]) -> list[str]:
    """Make what was never trained do nothing: norms neutral, ends of residual branches zero.

    Args:
        backbone: That was trained from fresh weights.
        untrained: Names of its parameters.

    Returns:
        Names of the modules that were changed. Other untrained parameters keep their initial values.
    """
    changed = []
    for name, module in backbone.named_modules():
        own = [f"{name}.{p}" if name else p for p, _ in module.named_parameters(recurse=False)]
        if not own or any(p not in untrained for p in own):
            continue
        layer = cast(Any, module)
        if isinstance(module, nn.LayerNorm):
            layer.reset_parameters()
        elif isinstance(module, nn.Linear) and name.endswith(_BRANCH_ENDS):
            for parameter in module.parameters():
                parameter.zero_()
        else:
            continue
        changed.append(name)
    return changed
