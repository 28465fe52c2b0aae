"""The smooth L1 distance, by hand, and where its two halves meet."""

import pytest
import torch

from edgemim.losses.l1 import l1
from edgemim.losses.mse import mse
from edgemim.losses.smooth_l1 import smooth_l1


def test_a_worked_example() -> None:
    student = torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[3.0, -1.0], [2.0, 2.0]]])
    teacher = torch.tensor([[[0.5, 4.0], [9.0, 9.0]], [[3.0, 1.0], [0.0, 1.0]]])
    # 0.5 is below 1: 0.125; 2 -> 1.5.  9 and 9 -> 8.5 each.  0 and 2 -> 0 and 1.5.  2 and 1 -> 1.5 and 0.5.
    assert smooth_l1(student=student, teacher=teacher) == (0.8125 + 8.5 + 0.75 + 1) / 4
    mask = torch.tensor([[True, False], [True, True]])
    assert smooth_l1(student=student, teacher=teacher, mask=mask) == torch.tensor((0.8125 + 0.75 + 1) / 3)
    # With beta 2: 0.5 -> 0.0625, 2 -> 1; 9 -> 8; 0 and 2 -> 0 and 1; 2 and 1 -> 1 and 0.25.
    assert smooth_l1(student=student, teacher=teacher, beta=2.0) == (0.53125 + 8 + 0.5 + 0.625) / 4


def test_it_is_symmetric() -> None:
    student, teacher = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert smooth_l1(student=student, teacher=teacher) == smooth_l1(student=teacher, teacher=student)


@pytest.mark.parametrize("beta", [0.25, 1.0, 3.0])
def test_it_is_half_the_square_over_beta_for_close_tokens_and_the_absolute_value_less_half_of_beta_for_far_ones(
    beta: float,
) -> None:
    teacher = torch.zeros(1, 4, 6)
    close = (torch.rand(1, 4, 6, generator=torch.Generator().manual_seed(0)) - 0.5) * beta
    far = close + 5 * beta
    # Roundings of a few sums of 24 numbers.
    expected = mse(student=close, teacher=teacher) / (2 * beta)
    torch.testing.assert_close(smooth_l1(student=close, teacher=teacher, beta=beta), expected, rtol=1e-6, atol=0)
    expected = l1(student=far, teacher=teacher) - beta / 2
    torch.testing.assert_close(smooth_l1(student=far, teacher=teacher, beta=beta), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_value_and_slope_have_no_jump_at_beta(beta: float) -> None:
    def at(gap: float) -> tuple[float, float]:
        student = torch.full((1, 1, 1), gap, requires_grad=True)
        value = smooth_l1(student=student, teacher=torch.zeros(1, 1, 1), beta=beta)
        value.backward()
        assert student.grad is not None
        return float(value.detach()), float(student.grad)

    (below, rising), (above, slope) = at(beta * (1 - 1e-4)), at(beta * (1 + 1e-4))
    # 2e-4 of beta apart, with a slope of 1 at the most.
    assert above - below == pytest.approx(2e-4 * beta, rel=0.01)
    assert rising == pytest.approx(1, abs=2e-4)
    assert slope == 1
