"""Batch norm whose statistics are those of all processes together.

Source: Ioffe and Szegedy, "Batch Normalization", ICML 2015, arXiv:1502.03167.
Differs: torch has the same for GPUs alone, as a module of another type, which a backbone would have to be converted to
    and back from.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def several_processes() -> bool:
    """Whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def joint_batch_norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """A training pass of `norm` on x [N, C, h, w], whose N may differ between the processes.

    Mean and variance are those of the places of all processes, and running statistics follow them: they stay the same
    in each. The arithmetic is that of float32, the result has the type of `x`.
    """
    values = x.float()
    places = values.new_full((1,), values.numel() / values.shape[1])
    sums = _total(torch.cat([values.sum(dim=(0, 2, 3)), places]))
    mean, count = sums[:-1] / sums[-1:], sums[-1:]
    centred = values - mean.view(1, -1, 1, 1)
    # Around the mean of all, in a second sum: the difference of two large squares would lose what small ones say.
    variance = _total(centred.square().sum(dim=(0, 2, 3))) / count
    _follow(norm, mean.detach(), (variance * count / (count - 1)).detach())
    scale = (variance + norm.eps).rsqrt()
    normed = centred * (scale * norm.weight.float()).view(1, -1, 1, 1) + norm.bias.float().view(1, -1, 1, 1)
    return normed.to(x.dtype)


@torch.no_grad()
def _follow(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    assert norm.momentum is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance, norm.momentum)


class _Total(torch.autograd.Function):
    """The sum over all processes. What a process gives changes the loss of each, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _total(x: Tensor) -> Tensor:
    total: Tensor = _Total.apply(x)
    return total
