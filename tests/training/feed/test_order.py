"""In which order images are seen."""

from __future__ import annotations

import pytest

from edgemim.errors import ConfigError
from edgemim.training.feed.order import BatchOrder, Place, epoch_order
from edgemim.training.loop.parts import Parts


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


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 3), (3, 1), (2, 3)])
def test_the_parts_of_all_processes_are_the_batch(processes: int, accumulate: int) -> None:
    def order(rank: int | None = None) -> list[list[Place]]:
        parts = None if rank is None else Parts.of(rank=rank, processes=processes, accumulate=accumulate)
        made = BatchOrder(images=10, batch_size=12, steps=7, seed=0, start_step=2, parts=parts)
        assert len(made) == 7 * (1 if parts is None else accumulate)
        return list(made)

    shares = [order(rank) for rank in range(processes)]
    for step, batch in enumerate(order()):
        mine = [share[step * accumulate : (step + 1) * accumulate] for share in shares]
        assert [place for parts in mine for part in parts for place in part] == batch


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"batch_size 10 cannot be divided into 4 equal parts .* set --batch-size 8"):
        BatchOrder(images=100, batch_size=10, steps=1, seed=0, parts=Parts.of(rank=0, processes=2, accumulate=2))
