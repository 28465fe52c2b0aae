"""In which order images are seen."""

from __future__ import annotations

import pytest

from edgemim.training.order import BatchOrder, Place, epoch_order


def places(images: int, batch: int, steps: int, seed: int = 0, start: int = 0) -> list[Place]:
    order = BatchOrder(images=images, batch_size=batch, steps=steps, seed=seed, start_step=start)
    batches = list(order)
    assert all(len(b) == batch for b in batches)
    return [place for b in batches for place in b]


@pytest.mark.parametrize(("images", "batch"), [(12, 4), (10, 4), (7, 7), (5, 3), (3, 3)])
def test_every_image_is_seen_once_in_each_epoch(images: int, batch: int) -> None:
    seen = places(images, batch, steps=4 * images)
    for epoch in range(4 * batch):
        part = seen[epoch * images : (epoch + 1) * images]
        assert [e for e, _ in part] == [epoch] * images
        assert sorted(i for _, i in part) == list(range(images))


def test_a_batch_may_span_two_epochs() -> None:
    third = places(10, 4, steps=5)[8:12]
    assert [epoch for epoch, _ in third] == [0, 0, 1, 1]


@pytest.mark.parametrize("start", [0, 1, 3, 4, 10])
def test_a_later_start_sees_what_was_left(start: int) -> None:
    assert places(10, 4, steps=10, start=start) == places(10, 4, steps=10)[4 * start :]


def test_it_is_a_function_of_the_seed_and_epochs_differ() -> None:
    assert places(50, 5, 10, seed=1) == places(50, 5, 10, seed=1)
    assert places(50, 5, 10, seed=1) != places(50, 5, 10, seed=2)
    assert epoch_order(0, 0, 50).tolist() != epoch_order(0, 1, 50).tolist()


def test_its_length_is_that_of_the_whole_run() -> None:
    order = BatchOrder(images=10, batch_size=4, steps=9, seed=0, start_step=7)
    assert len(order) == 9
    assert len(list(order)) == 2
    assert len(list(order)) == 2  # asked again, the same
