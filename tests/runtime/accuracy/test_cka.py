"""`edgemim.runtime.accuracy.cka`: beside the plain form with centred Gram matrices, and what it must not see."""

from __future__ import annotations

import numpy as np
import pytest

from edgemim.runtime.accuracy import cka
from edgemim.runtime.accuracy.cka import linear_cka


def plain(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al., section 2.4, equation 5, with linear kernels, term by term; normalised as Kornblith et al. do."""
    n, ones = len(x), np.ones(len(x))
    k, other = (v @ v.T * (1 - np.eye(n)) for v in (x.astype(float), y.astype(float)))

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        sums = (ones @ a @ ones) * (ones @ b @ ones) / ((n - 1) * (n - 2))
        return float(np.trace(a @ b) + sums - 2 / (n - 2) * (ones @ a @ b @ ones)) / (n * (n - 3))

    return hsic(k, other) / float(np.sqrt(hsic(k, k) * hsic(other, other)))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (1100, 3)])  # by columns, by images, more than one block
def test_it_is_the_plain_form(shape: tuple[int, int]) -> None:
    x = normal(*shape) + 3
    y = x + normal(*shape, seed=1)
    assert linear_cka(x, y) == pytest.approx(plain(x, y), rel=1e-9)


def test_worked_example() -> None:
    # Kernels without their diagonals of (1, 1, -1, -1) and (1, -1, 1, -1): every row of both adds up to -1. The terms
    # are tr(KL) = -4, (-4) (-4) / 6 = 8/3 and -(2 / 2) 4 = -4: together -16/3. Of one with itself 12 + 8/3 - 4 = 32/3.
    x, y = np.float32([[1], [1], [-1], [-1]]), np.float32([[1], [-1], [1], [-1]])
    assert linear_cka(x, y) == pytest.approx(-0.5)
    assert linear_cka(x, x) == 1


@pytest.mark.parametrize("shape", [(100, 384), (384, 100), (12, 1000)])
def test_unrelated_outputs_of_few_images_and_many_columns_are_near_0_and_equal_ones_are_1(
    shape: tuple[int, int],
) -> None:
    found = [linear_cka(normal(*shape, seed=2 * n), normal(*shape, seed=2 * n + 1)) for n in range(20)]
    # The deviation of one is about 1 / N.
    assert np.mean(found) == pytest.approx(0, abs=4 / shape[0] / 20**0.5)
    assert max(map(abs, found)) < 5 / shape[0]
    assert linear_cka(normal(*shape), normal(*shape)) == pytest.approx(1)


def test_turning_scaling_and_shifting_the_outputs_changes_nothing() -> None:
    x = normal(50, 6)
    turned, _ = np.linalg.qr(normal(6, 6, seed=1).astype(float))
    assert linear_cka(x, (5 * x @ turned + 2).astype(np.float32)) == pytest.approx(1, abs=1e-6)


def test_outputs_of_another_width_can_be_compared() -> None:
    x = normal(60, 4)
    assert linear_cka(x, np.concatenate([x, x], axis=1)) == pytest.approx(1)


@pytest.mark.parametrize("rows", [1, 30])
def test_outputs_that_are_the_same_for_every_image_have_no_alignment(rows: int) -> None:
    constant = np.full((rows, 4), 0.1, dtype=np.float32)
    assert linear_cka(constant, normal(rows, 4)) is None
    assert linear_cka(normal(rows, 4), constant) is None


@pytest.mark.parametrize("rows", [1, 3])
def test_fewer_than_four_images_have_no_alignment(rows: int) -> None:
    assert linear_cka(normal(rows, 4), normal(rows, 4)) is None


def test_outputs_that_differ_on_one_image_alone_have_no_alignment() -> None:
    # A single image cannot lie to the others as it did before, since the others are all one.
    one = np.zeros((30, 4), dtype=np.float32)
    one[7] = 0.3
    assert linear_cka(one + np.float32(0.1), normal(30, 4)) is None


def test_of_too_many_images_and_columns_some_images_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cka, "_LARGEST", 50)
    x = normal(200, 80)
    y = x + 0.1 * normal(200, 80, seed=1)
    chosen = np.linspace(0, 199, 50).round().astype(int)
    assert linear_cka(x, y) == pytest.approx(plain(x[chosen], y[chosen]))
