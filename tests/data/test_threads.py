"""Ordered blocks of work in threads."""

import threading
import time

import pytest

from edgemim.data._threads import BLOCK, map_blocks


def test_blocks_come_in_order_and_cover_the_range():
    def work(start, stop):
        time.sleep(0.01 if start == 0 else 0)
        return list(range(start, stop))

    count = 5 * BLOCK + 3
    assert [i for block in map_blocks(work, count) for i in block] == list(range(count))


def test_no_work_gives_no_blocks():
    assert list(map_blocks(lambda start, stop: start, 0)) == []


def test_a_slow_reader_does_not_pile_up_results():
    started = []
    for done, _ in enumerate(map_blocks(lambda start, stop: started.append(start), 200 * BLOCK)):
        assert len(started) <= done + 1 + 2 * 8
        if done == 3:
            time.sleep(0.05)


def test_the_first_failure_in_order_is_raised_and_ends_the_work():
    calls = []

    def work(start, stop):
        calls.append(start)
        raise ValueError(start)

    with pytest.raises(ValueError, match=r"^0$"):
        list(map_blocks(work, 1000 * BLOCK))
    assert len(calls) <= 2 * 8 + 8


def test_a_reader_that_stops_early_leaves_no_thread():
    blocks = map_blocks(lambda start, stop: start, 100 * BLOCK)
    next(blocks)
    blocks.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("edgemim-data")]
