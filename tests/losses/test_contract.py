"""What every loss promises: a scalar in float32 that is zero for equals, a mean over the tokens that count."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from edgemim.losses import LOSSES

Loss = Callable[..., Tensor]


@pytest.fixture(params=LOSSES.names())
def loss(request: pytest.FixtureRequest) -> Loss:
    found: Loss = LOSSES.get(request.param)
    return found


@pytest.fixture
def tokens() -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 6, 8, generator=rng)
    mask = torch.rand(3, 6, generator=rng) < 0.5
    return student, teacher, mask


def test_it_is_a_finite_scalar_of_float32_also_for_half_precision(loss: Loss, tokens: tuple[Tensor, ...]) -> None:
    student, teacher, mask = tokens
    for dtype in (torch.float32, torch.bfloat16):
        value = loss(student=student.to(dtype), teacher=teacher.to(dtype), mask=mask)
        assert value.shape == ()
        assert value.dtype == torch.float32
        assert value.isfinite()


def test_half_precision_is_only_rounding_of_the_input(loss: Loss, tokens: tuple[Tensor, ...]) -> None:
    student, teacher, mask = tokens
    halved = loss(student=student.bfloat16(), teacher=teacher.bfloat16(), mask=mask)
    rounded = loss(student=student.bfloat16().float(), teacher=teacher.bfloat16().float(), mask=mask)
    assert halved == rounded


def test_equal_tokens_cost_nothing_and_others_something(loss: Loss, tokens: tuple[Tensor, ...]) -> None:
    student, teacher, _ = tokens
    assert loss(student=student, teacher=student.clone()) == 0
    assert loss(student=student, teacher=teacher) > 0


def test_tokens_that_do_not_count_have_no_say_and_no_gradient(loss: Loss, tokens: tuple[Tensor, ...]) -> None:
    student, teacher, mask = tokens
    changed = torch.where(mask.unsqueeze(-1), student, student + 100)
    assert loss(student=changed, teacher=teacher, mask=mask) == loss(student=student, teacher=teacher, mask=mask)
    student = student.requires_grad_()
    loss(student=student, teacher=teacher, mask=mask).backward()
    assert student.grad is not None
    assert (student.grad[~mask] == 0).all()
    assert (student.grad[mask] != 0).all()


def test_no_mask_is_a_mask_of_everything(loss: Loss, tokens: tuple[Tensor, ...]) -> None:
    student, teacher, mask = tokens
    everything = loss(student=student, teacher=teacher, mask=torch.ones_like(mask))
    torch.testing.assert_close(loss(student=student, teacher=teacher), everything)


def test_a_token_counts_the_same_in_whichever_image_it_lies(loss: Loss, tokens: tuple[Tensor, ...]) -> None:
    student, teacher, mask = tokens
    # One mean over the batch, not a mean of each image's mean: the images differ in their counts here.
    assert len(set(mask.sum(dim=1).tolist())) > 1
    flat = loss(student=student[mask][None], teacher=teacher[mask][None])
    torch.testing.assert_close(loss(student=student, teacher=teacher, mask=mask), flat)


def test_arguments_are_keywords(loss: Loss, tokens: tuple[Tensor, ...]) -> None:
    with pytest.raises(TypeError):
        loss(tokens[0], tokens[1])
