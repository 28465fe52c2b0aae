"""The worked example of the divergence between softened classes."""

import math

import pytest
import torch

from edgemim.losses.kl import kl


def test_a_worked_example() -> None:
    # The teacher says 3/4 and 1/4, the student 1/2 and 1/2:
    # 3/4 log(3/2) + 1/4 log(1/2) = 0.75 * 0.405465 - 0.25 * 0.693147 = 0.130812.
    teacher = torch.tensor([[math.log(3), 0.0]])
    student = torch.tensor([[5.0, 5.0]])
    assert float(kl(student=student, teacher=teacher)) == pytest.approx(0.130812, abs=1e-6)
    # At temperature 1/2 the teacher says 9/10 and 1/10, and the loss is divided by 4:
    # (0.9 log(9/5) + 0.1 log(1/5)) / 4 = (0.529008 - 0.160944) / 4 = 0.092016.
    assert float(kl(student=student, teacher=teacher, temperature=0.5)) == pytest.approx(0.092016, abs=1e-6)


def test_the_mean_is_over_images_and_not_over_classes() -> None:
    student, teacher = torch.zeros(2, 3), torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    # The second image is right already.
    alone = kl(student=student[:1], teacher=teacher[:1])
    torch.testing.assert_close(kl(student=student, teacher=teacher), alone / 2)
    torch.testing.assert_close(kl(student=student, teacher=teacher, mask=torch.tensor([True, False])), alone)


def test_a_constant_added_to_the_logits_changes_nothing() -> None:
    student, teacher = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        kl(student=student + 3, teacher=teacher - 2, temperature=2.0),
        kl(student=student, teacher=teacher, temperature=2.0),
    )


def test_an_impossible_class_of_the_teacher_costs_nothing_infinite() -> None:
    loss = kl(student=torch.tensor([[0.0, 200.0]]), teacher=torch.tensor([[300.0, 0.0]]))
    assert float(loss) == pytest.approx(200.0)  # log of e^-200; the teacher's e^-300 is 0 in float32
