"""The mean absolute error, by hand."""

import torch

from edgemim.losses.l1 import l1


def test_a_worked_example() -> None:
    student = torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[3.0, -1.0], [2.0, 2.0]]])
    teacher = torch.tensor([[[0.0, 4.0], [9.0, 9.0]], [[3.0, 1.0], [0.0, 1.0]]])
    # |1-0|, |2-4| -> 1.5;  |0-9|, |0-9| -> 9;  |3-3|, |-1-1| -> 1;  |2-0|, |2-1| -> 1.5
    assert l1(student=student, teacher=teacher) == (1.5 + 9 + 1 + 1.5) / 4
    mask = torch.tensor([[True, False], [True, True]])
    assert l1(student=student, teacher=teacher, mask=mask) == torch.tensor((1.5 + 1 + 1.5) / 3)


def test_it_is_symmetric() -> None:
    student, teacher = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert l1(student=student, teacher=teacher) == l1(student=teacher, teacher=student)
