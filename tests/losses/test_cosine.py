"""The worked example of one minus the cosine."""

import pytest
import torch

from edgemim.losses.cosine import cosine


def test_a_worked_example() -> None:
    student = torch.tensor([[[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]]])
    teacher = torch.tensor([[[6.0, 8.0], [0.0, 5.0], [0.0, -1.0]]])
    # Token 0: the same direction, 0. Token 1: a right angle, 1. Token 2: opposite, 2.
    assert float(cosine(student=student, teacher=teacher)) == pytest.approx(1.0)
    mask = torch.tensor([[False, True, False]])
    assert float(cosine(student=student, teacher=teacher, mask=mask)) == pytest.approx(1.0)
    mask = torch.tensor([[True, False, True]])
    assert float(cosine(student=student, teacher=teacher, mask=mask)) == pytest.approx(1.0)


def test_lengths_have_no_say() -> None:
    student, teacher = torch.randn(2, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        cosine(student=student * 7, teacher=teacher / 3), cosine(student=student, teacher=teacher)
    )


def test_it_is_torchs_cosine_similarity() -> None:
    student, teacher = torch.randn(2, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    expected = 1 - torch.nn.functional.cosine_similarity(student, teacher, dim=-1).mean()
    torch.testing.assert_close(cosine(student=student, teacher=teacher), expected)
