"""k-NN and linear probe against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from edgemim.training.probe import knn_top1, linear_top1

Data = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture
def data() -> Data:
    """Five overlapping clouds of points."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 12))

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = rng.integers(0, 5, count)
        points = centres[labels] + rng.normal(size=(count, 12)) * 1.5
        return torch.tensor(points, dtype=torch.float32), torch.tensor(labels)

    return (*draw(300), *draw(200))


@pytest.mark.parametrize("k", [1, 5, 20])
def test_the_vote_is_scikit_learns_with_the_same_weights(data: Data, k: int) -> None:
    train, labels, test, test_labels = data
    judge = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = judge.fit(train.numpy(), labels.numpy()).score(test.numpy(), test_labels.numpy())
    assert 0.3 < expected < 1
    assert knn_top1(train, labels, test, test_labels, k=k) == pytest.approx(expected)


def test_a_worked_example_of_the_vote() -> None:
    # Seen from the test point (1, 0), class 0 has one neighbour at cosine 1 and class 1 has two at 0.6:
    # exp(1 / 0.07) against 2 exp(0.6 / 0.07); the one wins at 0.07, the two at a temperature of 1.
    train = torch.tensor([[2.0, 0.0], [3.0, 4.0], [0.6, -0.8]])
    labels, test = torch.tensor([0, 1, 1]), torch.tensor([[5.0, 0.0]])
    assert knn_top1(train, labels, test, torch.tensor([0]), k=3) == 1
    assert knn_top1(train, labels, test, torch.tensor([1]), k=3, temperature=1.0) == 1


def test_fewer_images_than_neighbours_are_fine(data: Data) -> None:
    train, labels, test, test_labels = data
    assert 0 <= knn_top1(train[:3], labels[:3], test, test_labels) <= 1


def test_many_test_images_are_done_in_blocks(data: Data) -> None:
    train, labels, test, test_labels = data
    many = knn_top1(train, labels, test.repeat(11, 1), test_labels.repeat(11))
    assert many == pytest.approx(knn_top1(train, labels, test, test_labels))


def test_a_linear_probe_finds_what_is_linear(data: Data) -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (400,), generator=rng)
    clean = torch.nn.functional.one_hot(labels, 6).float() * 100 + torch.randn(400, 6, generator=rng)
    assert linear_top1(clean[:300], labels[:300], clean[300:], labels[300:]) == 1
    shuffled = labels[torch.randperm(400, generator=rng)]
    assert linear_top1(clean[:300], shuffled[:300], clean[300:], shuffled[300:]) < 0.45


def test_the_probe_does_not_depend_on_the_scale_of_a_feature(data: Data) -> None:
    train, labels, test, test_labels = data
    scale = 10.0 ** torch.arange(-6, 6)
    plain = linear_top1(train, labels, test, test_labels)
    assert linear_top1(train * scale + 3, labels, test * scale + 3, test_labels) == pytest.approx(plain, abs=0.02)
    dead = torch.cat([train, torch.ones(300, 1)], dim=1), torch.cat([test, torch.ones(200, 1)], dim=1)
    assert linear_top1(dead[0], labels, dead[1], test_labels) == pytest.approx(plain, abs=0.02)
