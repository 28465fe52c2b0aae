"""The mean squared error, by hand."""

import torch

from edgemim.losses.mse import mse


def test_a_worked_example() -> None:
    student = torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[3.0, -1.0], [2.0, 2.0]]])
    teacher = torch.tensor([[[0.0, 4.0], [9.0, 9.0]], [[3.0, 1.0], [0.0, 1.0]]])
    # 1 and 4 -> 2.5;  81 and 81 -> 81;  0 and 4 -> 2;  4 and 1 -> 2.5
    assert mse(student=student, teacher=teacher) == (2.5 + 81 + 2 + 2.5) / 4
    mask = torch.tensor([[True, False], [True, True]])
    assert mse(student=student, teacher=teacher, mask=mask) == torch.tensor((2.5 + 2 + 2.5) / 3)


def test_it_is_symmetric() -> None:
    student, teacher = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert mse(student=student, teacher=teacher) == mse(student=teacher, teacher=student)
