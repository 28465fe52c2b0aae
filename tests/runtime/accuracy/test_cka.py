"""`edgemim.runtime.accuracy.cka`: beside the plain form with centred Gram matrices, and what it must not see."""

from __future__ import annotations

import numpy as np
import pytest

from edgemim.runtime.accuracy import cka
from edgemim.runtime.accuracy.cka import linear_cka


def plain(x: np.ndarray, y: np.ndarray) -> float:
    """Kornblith et al., section 3: HSIC(K, L) = tr(KHLH) / (n - 1)^2, of linear kernels."""
    n = len(x)
    centring = np.eye(n) - 1 / n
    k, other = x.astype(float) @ x.T.astype(float), y.astype(float) @ y.T.astype(float)

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.trace(a @ centring @ b @ centring)) / (n - 1) ** 2

    return hsic(k, other) / float(np.sqrt(hsic(k, k) * hsic(other, other)))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (1100, 3)])  # by columns, by images, more than one block
def test_it_is_the_plain_form(shape: tuple[int, int]) -> None:
    x = normal(*shape) + 3
    y = x + normal(*shape, seed=1)
    assert linear_cka(x, y) == pytest.approx(plain(x, y), rel=1e-9)


def test_worked_example() -> None:
    # Centred columns (-1, 0, 1) and (1, -2, 1) / 3: their product is 0. Beside itself it is 1.
    x, y = np.float32([[0], [1], [2]]), np.float32([[1], [0], [1]])
    assert linear_cka(x, y) == pytest.approx(0, abs=1e-12)
    assert linear_cka(x, x) == 1


def test_turning_scaling_and_shifting_the_outputs_changes_nothing() -> None:
    x = normal(50, 6)
    turned, _ = np.linalg.qr(normal(6, 6, seed=1).astype(float))
    assert linear_cka(x, (5 * x @ turned + 2).astype(np.float32)) == pytest.approx(1, abs=1e-6)


def test_outputs_of_another_width_can_be_compared() -> None:
    x = normal(60, 4)
    assert linear_cka(x, np.concatenate([x, x], axis=1)) == pytest.approx(1)


def test_outputs_that_have_nothing_to_do_with_each_other_are_far_from_1() -> None:
    assert (linear_cka(normal(4000, 8), normal(4000, 8, seed=1)) or 1) < 0.05


@pytest.mark.parametrize("rows", [1, 30])
def test_outputs_that_are_the_same_for_every_image_have_no_alignment(rows: int) -> None:
    constant = np.full((rows, 4), 0.1, dtype=np.float32)
    assert linear_cka(constant, normal(rows, 4)) is None
    assert linear_cka(normal(rows, 4), constant) is None


def test_of_too_many_images_and_columns_some_images_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cka, "_LARGEST", 50)
    x = normal(200, 80)
    y = x + 0.1 * normal(200, 80, seed=1)
    chosen = np.linspace(0, 199, 50).round().astype(int)
    assert linear_cka(x, y) == pytest.approx(plain(x[chosen], y[chosen]))
