"""`edgemim.runtime.accuracy.neighbours`: beside a plain loop, and what follows from its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgemim.runtime.accuracy.neighbours import NEIGHBOURS, nearest_answers


def plain(outputs: np.ndarray, gallery: np.ndarray, labels: np.ndarray | None) -> list[int]:
    """One image and one vote at a time."""
    found = []
    for image in outputs.astype(float):
        lengths = np.linalg.norm(gallery, axis=1) * np.linalg.norm(image)
        similarity = [float(image @ other) / length for other, length in zip(gallery, lengths, strict=True)]
        ranked = sorted(range(len(gallery)), key=lambda i: -similarity[i])
        if labels is None:
            found.append(ranked[0])
            continue
        votes: dict[int, float] = {}
        for i in ranked[:NEIGHBOURS]:
            votes[int(labels[i])] = votes.get(int(labels[i]), 0.0) + math.exp(similarity[i] / 0.07)
        found.append(max(votes, key=votes.__getitem__))
    return found


@pytest.mark.parametrize("labelled", [True, False])
def test_it_answers_as_the_plain_form_does(labelled: bool) -> None:
    rng = np.random.default_rng(0)
    outputs, gallery = (rng.standard_normal((n, 6)).astype(np.float32) for n in (1100, 70))  # more than one block
    labels = rng.integers(0, 4, 70) if labelled else None
    found = nearest_answers(outputs, gallery, labels)
    assert found.tolist() == plain(outputs, gallery, labels)
    assert len(set(found.tolist())) > 3  # it was a question


def test_lengths_do_not_count_and_a_small_gallery_votes_as_a_whole() -> None:
    gallery = np.array([[1, 0], [0, 1], [0.1, 1]], dtype=np.float32)
    outputs = np.array([[1, 0.2], [0.2, 1]], dtype=np.float32)
    labels = np.array([5, 2, 2])
    assert nearest_answers(outputs, gallery, labels).tolist() == [5, 2]
    assert nearest_answers(100 * outputs, gallery / 7, labels).tolist() == [5, 2]


def test_an_output_of_zeros_gets_an_answer() -> None:
    gallery = np.eye(2, dtype=np.float32)
    assert nearest_answers(np.zeros((1, 2), dtype=np.float32), gallery, None).tolist() == [0]
