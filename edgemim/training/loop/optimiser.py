"""The optimiser's parameter groups, and the learning rate and weight decay of each step.

Source: He et al., arXiv:2111.06377, appendix A (warm-up, half cosine, per iteration); layer-wise decay: Clark et
al., "ELECTRA", 2020, arXiv:2003.10555, as used by Bao et al., "BEiT", arXiv:2106.08254; LAMB: You et al.,
arXiv:1904.00962, as timm has it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from edgemim.methods._base import Method
from edgemim.training.settings.training import TrainingSettings

# A block of a plain model, or of a stage (timm: `layers` or `stages`), and what leads into a stage.
_BLOCK = re.compile(r"(?:^|\.)(?:(?:layers|stages)\.(\d+)\.)?blocks\.(\d+)\.")
_LEAD = re.compile(r"(?:^|\.)(?:layers|stages)\.(\d+)\.downsample\.")


def build_optimiser(module: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimiser over everything trainable, fused where it can be."""
    groups, rate, betas = parameter_groups(module, settings), settings.learning_rate, settings.betas
    if settings.optimiser == "lamb":
        from timm.optim import Lamb

        # Its own clipping is left to training.clip_grad.
        lamb: torch.optim.Optimizer = Lamb(groups, lr=rate, betas=betas, max_grad_norm=None)
        return lamb
    return torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True)


def parameter_groups(module: nn.Module, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Trainable parameters by weight decay and layer scale.

    No decay on 1-D tensors, biases and what a method's own `no_weight_decay()` names. With `layer_decay` d and
    B blocks, counted through all stages: the embeddings get d ** (B + 1), block i gets d ** (B - i), what leads
    into a stage the rate of the block before it, everything after the blocks 1.
    """
    order = _block_order(module)
    blocks = len(order)
    undecayed = set(module.no_weight_decay()) if isinstance(module, Method) else set()
    groups: dict[tuple[float, float, bool], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = parameter.dim() <= 1 or name.endswith(".bias") or name in undecayed
        decay = 0.0 if plain else settings.weight_decay
        decays = not plain and bool(settings.weight_decay or settings.weight_decay_end)
        scale = settings.layer_decay ** (blocks + 1 - _layer_of(name, order))
        group = groups.setdefault(
            (decay, scale, decays),
            {"params": [], "weight_decay": decay, "lr": settings.learning_rate * scale, "decays": decays},
        )
        group["params"].append(parameter)
    return list(groups.values())


def learning_rate_factor(settings: TrainingSettings, steps: int) -> Callable[[int], float]:
    """Factor on the peak rate at each step: linear warm-up from 0, then the schedule's fall."""
    warmup = settings.warmup * steps
    floor = settings.min_lr / settings.learning_rate if settings.learning_rate else 0.0

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        if settings.schedule == "step":
            return settings.step_factor if step >= settings.step_at * steps else 1.0
        done = min(1.0, (step - warmup) / max(1e-9, steps - warmup))
        left = 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        return floor + (1 - floor) * left

    return factor


def weight_decay_at(settings: TrainingSettings, share: float) -> float:
    """The weight decay when `share` of a run, in [0, 1], is over."""
    start, end = settings.weight_decay, settings.weight_decay_end
    return start if end is None else end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def _block_order(module: nn.Module) -> list[tuple[int, int]]:
    """Stage and index of every block, first to last; a plain model is one stage."""
    found = (_BLOCK.search(name) for name, _ in module.named_parameters())
    return sorted({(int(m.group(1) or 0), int(m.group(2))) for m in found if m})


def _layer_of(name: str, order: list[tuple[int, int]]) -> int:
    """0 for the embeddings, 1 for the first block, and one more than the last for what follows the blocks."""
    block, lead = _BLOCK.search(name), _LEAD.search(name)
    if block:
        return order.index((int(block.group(1) or 0), int(block.group(2)))) + 1
    if lead:
        return sum(stage < int(lead.group(1)) for stage, _ in order)
    first = any(part in name for part in ("patch_embed", "cls_token", "reg_token", "pos_embed", "stem"))
    return 0 if first else len(order) + 1
