"""The batch norm of several processes, with one process that believes in others, and with two that are played."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from edgemim.models.mask_plan import MaskPlan
from edgemim.models.sparse import forms
from edgemim.models.sparse.batch_norm import joint_batch_norm, several_processes
from edgemim.models.sparse.context import sparse


@pytest.fixture
def group() -> Iterator[None]:
    """A group of one process, whose sums are its own numbers."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def norm_of(channels: int, seed: int = 0) -> nn.BatchNorm2d:
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
        assert norm.running_mean is not None
        norm.running_mean.normal_()
    return norm


def test_one_process_is_not_several(group: None) -> None:
    assert not several_processes()


def test_it_is_torchs_batch_norm_where_no_one_else_is(group: None) -> None:
    own, other = norm_of(4), norm_of(4)
    # Far from zero: a variance that is the difference of two squares would have lost most of its digits.
    x = (torch.randn(6, 4, 3, 2) + 300).requires_grad_()
    twin = x.detach().clone().requires_grad_()
    weights = torch.randn(6, 4, 3, 2)
    out, expected = joint_batch_norm(own, x), other(twin)
    # float32: numbers near 300 are known to 3e-5, deviations are near 1.
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    for name, buffer in other.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name], buffer, rtol=1e-5, atol=1e-5, msg=name)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    for a, b in ((x, twin), (own.weight, other.weight), (own.bias, other.bias)):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)


def test_two_processes_norm_by_what_both_have(group: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process is played: what it would add to each sum is computed from its images."""
    torch.manual_seed(1)
    mine, theirs = torch.randn(4, 3, 2, 2), torch.randn(7, 3, 2, 2) * 2 + 1
    both = torch.cat([mine, theirs])
    mean = both.mean(dim=(0, 2, 3))
    added = [
        torch.cat([theirs.sum(dim=(0, 2, 3)), torch.tensor([7.0 * 4])]),
        (theirs - mean.view(1, -1, 1, 1)).square().sum(dim=(0, 2, 3)),
    ]

    def all_reduce(tensor: Tensor) -> None:
        tensor.add_(added.pop(0))

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    own, other = norm_of(3), norm_of(3)
    out = joint_batch_norm(own, mine)
    # float32, sums of 44 numbers.
    torch.testing.assert_close(out, other(both)[:4], rtol=1e-5, atol=1e-5)
    for name, buffer in other.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name], buffer, rtol=1e-5, atol=1e-6, msg=name)
    assert not added


def test_gradients_of_a_sum_are_summed_too(group: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def all_reduce(tensor: Tensor) -> None:
        tensor.mul_(2)  # another process with the same numbers

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    norm, twin = norm_of(3), norm_of(3)
    x = torch.randn(4, 3, 2, 2)
    mine, both = x.clone().requires_grad_(), torch.cat([x, x]).requires_grad_()
    weights = torch.randn(4, 3, 2, 2)
    (joint_batch_norm(norm, mine) * weights).sum().backward()
    (twin(both) * torch.cat([weights, weights])).sum().backward()
    assert mine.grad is not None
    assert both.grad is not None
    # float32; each process has half of the gradient of weights and biases, and all of that of its own images.
    torch.testing.assert_close(mine.grad, both.grad[:4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(2 * norm.weight.grad, twin.weight.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("act", [False, True])
def test_layers_use_it_where_there_are_several_processes(
    group: None, monkeypatch: pytest.MonkeyPatch, act: bool
) -> None:
    torch.manual_seed(1)
    norm: Any = BatchNormAct2d(4) if act else nn.BatchNorm2d(4)
    other = copy.deepcopy(norm)
    plan = MaskPlan.from_keep_ids(torch.tensor([[0, 1], [1, 2]]), (1, 3))
    x = torch.randn(2, 4, 2, 6)
    outs = []
    for module, joint in ((norm, True), (other, False)):
        monkeypatch.setattr(forms, "several_processes", lambda joint=joint: joint)
        with sparse(nn.Sequential(module), plan) as active:
            outs.append(module(active.clear(x)))
    torch.testing.assert_close(*outs)
    torch.testing.assert_close(norm.state_dict(), other.state_dict())
    assert (outs[0] >= 0).all() == act


def test_half_precision_comes_out_as_it_went_in(group: None) -> None:
    norm = norm_of(4)
    x = torch.randn(6, 4, 3, 2)
    out = joint_batch_norm(norm, x.bfloat16())
    assert out.dtype == torch.bfloat16
    assert norm.running_mean is not None
    assert norm.running_mean.dtype == torch.float32
