"""Holding rows out."""

import numpy as np
import pytest

from edgemim.data.stratify import holdout_indices
from edgemim.errors import ConfigError, DataError


def test_the_parts_are_disjoint_sorted_and_complete():
    keep, held = holdout_indices(None, count=101, share=0.1, seed=3)
    assert len(held) == 11  # ceil(10.1)
    assert sorted([*keep, *held]) == list(range(101))
    assert (np.diff(keep) > 0).all()
    assert (np.diff(held) > 0).all()


def test_each_class_gives_its_share_to_within_one_row():
    labels = np.repeat([0, 1, 2], [50, 30, 21]).astype(np.int64)
    _, held = holdout_indices(labels, count=101, share=0.2, seed=0)
    # Shares 10, 6 and 4.2 make 21 in all: ceil(20.2); the largest remainder is class 2's.
    assert np.bincount(labels[held]).tolist() == [10, 6, 5]


def test_a_class_keeps_its_last_row_while_others_can_give():
    labels = np.array([0] * 10 + [1, 2, 3], dtype=np.int64)
    keep, _ = holdout_indices(labels, count=13, share=0.3, seed=0)
    assert {1, 2, 3} <= set(labels[keep].tolist())


def test_classes_of_one_image_can_be_split_all_the_same():
    keep, held = holdout_indices(np.arange(20), count=20, share=0.1, seed=0)
    assert (len(keep), len(held)) == (18, 2)


def test_the_seed_decides_and_nothing_else():
    labels = np.arange(100) % 4
    first = holdout_indices(labels, count=100, share=0.1, seed=1)[1]
    assert first.tolist() == holdout_indices(labels, count=100, share=0.1, seed=1)[1].tolist()
    assert first.tolist() != holdout_indices(labels, count=100, share=0.1, seed=2)[1].tolist()


def test_the_rows_of_a_seed_never_change():
    # Written down once: a different draw would move test images into the training set of a resumed run.
    assert holdout_indices(None, count=20, share=0.2, seed=0)[1].tolist() == [1, 8, 18, 19]


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(ConfigError, match=r"must lie in \(0, 1\)"):
        holdout_indices(None, count=10, share=share, seed=0)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_rows_are_refused(count):
    with pytest.raises(DataError, match="too few"):
        holdout_indices(None, count=count, share=0.1, seed=0)
