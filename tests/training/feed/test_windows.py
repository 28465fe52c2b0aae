"""The order of a stream."""

from __future__ import annotations

import numpy as np
import pytest

from edgemim.errors import ConfigError
from edgemim.training.feed.order import Place
from edgemim.training.feed.windows import Units, WindowOrder
from edgemim.training.loop.parts import Parts
from edgemim.training.settings.stream import StreamSettings

# Sixteen units of about six images, ten times too big for a window of 1 MB all together.
ROWS = np.array([5, 9, 1, 7, 6, 6, 8, 2, 6, 5, 7, 6, 4, 9, 3, 10])
UNITS = Units(rows=ROWS, sizes=ROWS * 100_000)
IMAGES = int(ROWS.sum())
UNIT_OF = np.repeat(np.arange(len(ROWS)), ROWS)


def order(steps: int, batch: int = 8, *, lanes: int = 4, window_mb: int = 1, seed: int = 0, start: int = 0,
          parts: Parts | None = None) -> list[list[Place]]:  # fmt: skip
    made = WindowOrder(
        units=UNITS,
        settings=StreamSettings(window_mb=window_mb, lanes=lanes),
        batch_size=batch,
        steps=steps,
        seed=seed,
        start_step=start,
        parts=parts,
    )
    assert len(made) == steps * len(made.parts.mine)
    batches = list(made)
    assert batches == list(made)  # asked again, the same
    return batches


def flat(batches: list[list[Place]]) -> list[Place]:
    return [place for batch in batches for place in batch]


@pytest.mark.parametrize("window_mb", [1, 3, 100])
@pytest.mark.parametrize(("batch", "lanes"), [(8, 4), (7, 1), (5, 3), (IMAGES, 2)])
def test_every_image_is_seen_once_in_each_epoch(batch: int, lanes: int, window_mb: int) -> None:
    seen = flat(order(3 * IMAGES // batch + 1, batch, lanes=lanes, window_mb=window_mb))
    for epoch in range(3):
        part = seen[epoch * IMAGES : (epoch + 1) * IMAGES]
        assert {e for e, _ in part} == {epoch}
        assert sorted(i for _, i in part) == list(range(IMAGES))


@pytest.mark.parametrize("start", [0, 1, 5, 11, 12, 30])
def test_a_later_start_sees_what_was_left(start: int) -> None:
    assert order(30, start=start) == order(30)[start:]


def test_it_is_a_function_of_the_seed_and_epochs_differ() -> None:
    assert order(30, seed=1) == order(30, seed=1)
    assert order(30, seed=1) != order(30, seed=2)
    seen = [i for _, i in flat(order(30, batch=IMAGES // 2))]
    assert seen[:IMAGES] != seen[IMAGES : 2 * IMAGES]
    assert seen[:IMAGES] != sorted(seen[:IMAGES])


def test_a_window_holds_whole_units_and_no_more_bytes_than_it_may() -> None:
    seen = [i for _, i in flat(order(IMAGES, batch=1, window_mb=2))]
    left = dict(enumerate(ROWS.tolist()))
    begun: set[int] = set()
    for image in seen:
        unit = int(UNIT_OF[image])
        begun.add(unit)
        left[unit] -= 1
        # Never more begun and unfinished than fits: at a window's end every unit of it is done.
        assert sum(UNITS.sizes[u] for u in begun if left[u]) <= 2_000_000
    assert not any(left.values())


def test_the_images_of_a_window_are_mixed() -> None:
    # One window over everything: neighbours in the order are rarely neighbours in the set.
    seen = np.array([i for _, i in flat(order(IMAGES, batch=1, lanes=1, window_mb=100))])
    assert (np.abs(np.diff(seen)) == 1).mean() < 0.1


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 2), (2, 1), (2, 2)])
def test_the_parts_of_all_processes_are_the_batch(processes: int, accumulate: int) -> None:
    alone = order(30, parts=Parts.of(rank=0, processes=1, accumulate=processes * accumulate))
    shares = [
        order(30, parts=Parts.of(rank=rank, processes=processes, accumulate=accumulate)) for rank in range(processes)
    ]
    steps = zip(*(zip(*[iter(share)] * accumulate, strict=True) for share in shares), strict=True)
    assert [list(part) for step in steps for rank in step for part in rank] == alone
    assert sorted(i for _, i in flat(alone)[:IMAGES]) == list(range(IMAGES))


@pytest.mark.parametrize(("workers", "lanes", "accumulate"), [(2, 4, 1), (4, 4, 1), (2, 2, 2), (8, 4, 2)])
def test_workers_that_divide_the_lanes_share_few_units(workers: int, lanes: int, accumulate: int) -> None:
    # A DataLoader hands batch n to worker n % workers.
    batches = order(60, batch=4, lanes=lanes, window_mb=100, parts=Parts.of(rank=0, processes=1, accumulate=accumulate))
    first = [batch for batch in batches[: IMAGES // (4 // accumulate)] if batch[-1][0] == 0]
    touched = [{int(UNIT_OF[i]) for b in first[w::workers] for _, i in b} for w in range(workers)]
    # Each lane is a run of consecutive units: at most one more at either end belongs to a neighbour too.
    assert sum(map(len, touched)) <= len(ROWS) + lanes * accumulate
    alike = [{int(UNIT_OF[i]) for b in first[w :: workers + 1] for _, i in b} for w in range(workers + 1)]
    assert sum(map(len, alike)) > sum(map(len, touched))


@pytest.mark.parametrize(
    ("most", "lanes", "accumulate", "expected"),
    [(15, 4, 1, 12), (4, 4, 1, 4), (3, 4, 1, 2), (1, 4, 1, 1), (5, 3, 2, 3), (7, 5, 1, 5), (4, 5, 1, 1)],
)
def test_workers_are_taken_in_numbers_that_share_the_lanes(
    most: int, lanes: int, accumulate: int, expected: int
) -> None:
    parts = Parts.of(rank=0, processes=1, accumulate=accumulate)
    settings = StreamSettings(lanes=lanes)
    made = WindowOrder(units=UNITS, settings=settings, batch_size=12, steps=1, seed=0, parts=parts)
    assert made.evenly(most) == expected


def test_the_processes_of_a_run_share_few_units() -> None:
    shares = [order(20, parts=Parts.of(rank=rank, processes=2, accumulate=1), window_mb=100) for rank in range(2)]
    first = [{int(UNIT_OF[i]) for e, i in flat(share) if e == 0} for share in shares]
    assert len(first[0] & first[1]) <= 1


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"batch_size 10 cannot be divided into 4 equal parts"):
        order(1, batch=10, parts=Parts.of(rank=0, processes=2, accumulate=2))


@pytest.mark.parametrize("name", ["window_mb", "lanes"])
def test_settings_that_make_no_sense_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"stream\.{name} must be at least 1; got 0"):
        StreamSettings(**{name: 0})
