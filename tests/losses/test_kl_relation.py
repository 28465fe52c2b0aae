"""The divergence of relations, by hand."""

import math

import pytest
import torch

from edgemim.losses.kl_relation import kl_relation


def test_a_worked_example() -> None:
    # The softmax of log-probabilities is the probabilities themselves, whatever is added to a row.
    teacher = torch.tensor([[[0.5, 0.5], [0.9, 0.1]], [[0.25, 0.75], [0.5, 0.5]]]).log() + 3
    student = torch.tensor([[[0.25, 0.75], [0.9, 0.1]], [[0.5, 0.5], [0.1, 0.9]]]).log() - 2
    # 1/2 log(1/2 / 1/4) + 1/2 log(1/2 / 3/4);  0;  1/4 log(1/2) + 3/4 log(3/2);  1/2 log 5 + 1/2 log(5/9)
    rows = [
        0.5 * math.log(2) + 0.5 * math.log(2 / 3),
        0.0,
        0.25 * math.log(0.5) + 0.75 * math.log(1.5),
        0.5 * math.log(5) + 0.5 * math.log(5 / 9),
    ]
    # float32: a few roundings of 6e-8 of logits of about 3.
    assert float(kl_relation(student=student, teacher=teacher)) == pytest.approx(sum(rows) / 4, rel=1e-5)
    mask = torch.tensor([[True, False], [True, True]])
    expected = (rows[0] + rows[2] + rows[3]) / 3
    assert float(kl_relation(student=student, teacher=teacher, mask=mask)) == pytest.approx(expected, rel=1e-5)


def test_the_teacher_comes_first_so_it_is_not_symmetric() -> None:
    sure, unsure = torch.tensor([[[8.0, 0.0]]]), torch.tensor([[[0.0, 0.0]]])
    # A sure teacher and an unsure student: log 2 at most. The other way round the student denies what may be.
    assert kl_relation(student=unsure, teacher=sure) < math.log(2)
    assert kl_relation(student=sure, teacher=unsure) > 3


def test_a_probability_that_underflows_costs_what_it_must() -> None:
    student, teacher = torch.tensor([[[0.0, -1000.0]]]), torch.tensor([[[0.0, 0.0]]])
    student.requires_grad_()
    loss = kl_relation(student=student, teacher=teacher)
    loss.backward()
    assert loss.item() == pytest.approx(500 - math.log(2))  # 1/2 log(1/2) + 1/2 (log(1/2) + 1000)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.tensor([[[0.5, -0.5]]]))


def test_every_head_and_image_counts_the_same() -> None:
    student, teacher = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    single = [
        [kl_relation(student=s, teacher=t) for s, t in zip(student[b], teacher[b], strict=True)] for b in range(3)
    ]
    mean = torch.stack([torch.stack(row) for row in single]).mean()
    torch.testing.assert_close(kl_relation(student=student, teacher=teacher), mean)


@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_is_that_of_torch(masked: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 6, 8, generator=rng)
    mask = torch.rand(3, 6, generator=rng) < 0.5 if masked else torch.ones(3, 6, dtype=torch.bool)
    student.requires_grad_()
    teacher.requires_grad_()
    kl_relation(student=student, teacher=teacher, mask=mask if masked else None).backward()
    assert student.grad is not None
    assert teacher.grad is None  # a teacher is not pulled towards its student
    twin = student.detach().double().requires_grad_()
    rows, wanted = twin[mask].log_softmax(dim=-1), teacher.detach().double()[mask].softmax(dim=-1)
    torch.nn.functional.kl_div(rows, wanted, reduction="batchmean").backward()
    # float32 against float64: a difference of two probabilities, each with a relative error of some 1e-7.
    torch.testing.assert_close(student.grad.double(), twin.grad, rtol=1e-5, atol=1e-8)
