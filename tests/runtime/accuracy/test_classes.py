"""`edgemim.runtime.accuracy.classes`: worked examples, ties, and a plain second form."""

from __future__ import annotations

import numpy as np
import pytest

from edgemim.runtime.accuracy.classes import among_best, first_choice, margins, per_class


def test_worked_example_of_ranks() -> None:
    scores = np.float32([[5, 1, 4, 2], [0, 3, 2, 1]])
    labels = np.array([3, 0])
    # The right classes come third and fourth.
    assert [among_best(scores, labels, k).tolist() for k in (2, 3, 4)] == [
        [False, False],
        [True, False],
        [True, True],
    ]
    assert margins(scores).tolist() == [1, 1]


def test_of_equal_scores_the_lower_class_comes_first_as_in_the_first_choice() -> None:
    scores = np.zeros((1, 6), dtype=np.float32)
    assert first_choice(scores).tolist() == [0]
    assert [bool(among_best(scores, np.array([c]), 5)[0]) for c in range(6)] == [True] * 5 + [False]


def test_ranks_are_those_of_a_stable_sort() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (1100, 9)).astype(np.float32)  # many ties, more than one block
    labels = rng.integers(0, 9, 1100)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    assert among_best(scores, labels, 5).tolist() == (order == labels[:, None]).any(axis=1).tolist()
    assert among_best(scores, labels, 1).tolist() == (first_choice(scores) == labels).tolist()
    best = np.sort(scores, axis=1)
    assert margins(scores).tolist() == (best[:, -1] - best[:, -2]).tolist()


def test_a_model_with_one_class_is_never_unsure() -> None:
    assert margins(np.ones((3, 1), dtype=np.float32)).tolist() == [0, 0, 0]


def test_one_row_for_each_class_that_there_is() -> None:
    labels, answers, reference = np.array([4, 1, 4, 1, 1]), np.array([4, 1, 0, 0, 1]), np.array([4, 1, 4, 4, 4])
    assert per_class(answers, reference, labels) == [
        {"class": 1, "n": 3, "top1": pytest.approx(2 / 3), "reference_top1": pytest.approx(1 / 3)},
        {"class": 4, "n": 2, "top1": 0.5, "reference_top1": 1.0},
    ]
    assert [row["reference_top1"] for row in per_class(answers, None, labels)] == [None, None]


def test_a_class_that_is_never_right_is_zero() -> None:
    assert per_class(np.array([0, 0]), None, np.array([2, 2]))[0]["top1"] == 0.0
