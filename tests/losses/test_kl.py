"""The divergence of softened classes, and of relations between tokens, by hand."""

import math

import pytest
import torch

from edgemim.losses.kl import kl


def test_a_worked_example_of_classes() -> None:
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


def test_a_worked_example_of_relations() -> None:
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
    assert float(kl(student=student, teacher=teacher)) == pytest.approx(sum(rows) / 4, rel=1e-5)
    mask = torch.tensor([[True, False], [True, True]])
    expected = (rows[0] + rows[2] + rows[3]) / 3
    assert float(kl(student=student, teacher=teacher, mask=mask)) == pytest.approx(expected, rel=1e-5)


def test_the_teacher_comes_first_so_it_is_not_symmetric() -> None:
    sure, unsure = torch.tensor([[[8.0, 0.0]]]), torch.tensor([[[0.0, 0.0]]])
    # A sure teacher and an unsure student: log 2 at most. The other way round the student denies what may be.
    assert kl(student=unsure, teacher=sure) < math.log(2)
    assert kl(student=sure, teacher=unsure) > 3


def test_a_probability_that_underflows_costs_what_it_must() -> None:
    student, teacher = torch.tensor([[[0.0, -1000.0]]]), torch.tensor([[[0.0, 0.0]]])
    student.requires_grad_()
    loss = kl(student=student, teacher=teacher)
    loss.backward()
    assert loss.item() == pytest.approx(500 - math.log(2))  # 1/2 log(1/2) + 1/2 (log(1/2) + 1000)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.tensor([[[0.5, -0.5]]]))


def test_every_head_and_image_counts_the_same() -> None:
    student, teacher = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    single = [[kl(student=s, teacher=t) for s, t in zip(student[b], teacher[b], strict=True)] for b in range(3)]
    mean = torch.stack([torch.stack(row) for row in single]).mean()
    torch.testing.assert_close(kl(student=student, teacher=teacher), mean)


@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_is_that_of_torch(masked: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 6, 8, generator=rng)
    mask = torch.rand(3, 6, generator=rng) < 0.5 if masked else torch.ones(3, 6, dtype=torch.bool)
    student.requires_grad_()
    teacher.requires_grad_()
    kl(student=student, teacher=teacher, mask=mask if masked else None).backward()
    assert student.grad is not None
    assert teacher.grad is None  # a teacher is not pulled towards its student
    twin = student.detach().double().requires_grad_()
    rows, wanted = twin[mask].log_softmax(dim=-1), teacher.detach().double()[mask].softmax(dim=-1)
    torch.nn.functional.kl_div(rows, wanted, reduction="batchmean").backward()
    # float32 against float64: a difference of two probabilities, each with a relative error of some 1e-7.
    torch.testing.assert_close(student.grad.double(), twin.grad, rtol=1e-5, atol=1e-8)
